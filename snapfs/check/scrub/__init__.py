"""Scrubbing: reading everything once, and telling where damage shows."""
