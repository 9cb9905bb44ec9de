"""Serving a trace once more without a kernel, to see whether everything turns out as it did."""
