"""Going back: whole or in part, at once, at the next mount, or only as a plan."""
