"""Inodes without a name: listed, emptied, and freed behind."""
