"""The request loop, with the quick forms of frequent requests."""
