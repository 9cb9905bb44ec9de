"""Byte layouts of everything on a volume, and nothing that reads, writes or decides.

``doc/format.md`` describes the same bytes in words; a test holds the two together.
"""
