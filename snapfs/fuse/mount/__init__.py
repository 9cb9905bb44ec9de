"""Mounting and unmounting, and the mount options."""
