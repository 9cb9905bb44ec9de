"""The tests. What they share is in ``harness``; fixtures are in ``conftest.py``."""
