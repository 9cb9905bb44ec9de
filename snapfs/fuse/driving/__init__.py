"""What drives the synchronous core from an event loop: calls, commits, background work."""
