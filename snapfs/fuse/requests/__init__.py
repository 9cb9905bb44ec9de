"""Handlers of the kernel's requests."""
