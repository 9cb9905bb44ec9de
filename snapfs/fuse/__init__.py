"""The kernel's side: FUSE requests become calls of the core, and core results become replies.

The only layer that waits: everything below it is synchronous. ``mounting.serve`` is the way in.
"""
