"""Asking a volume to do something: through the daemon that has it mounted, or by opening the image.

Both ways end in the same handlers; only ``server`` knows an event loop.
"""
