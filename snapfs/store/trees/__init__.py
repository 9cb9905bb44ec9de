"""Block maps and bucket trees: the one structure that does all the copy-on-write."""
