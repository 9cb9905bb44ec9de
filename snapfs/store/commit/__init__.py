"""Volumes, from opening to the commit that makes a generation durable."""
