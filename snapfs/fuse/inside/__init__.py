"""To look inside a daemon: where its coroutines and threads are, in words."""
