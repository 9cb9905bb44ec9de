"""Traces: a file of bounded size with the last requests of a mount.

``record`` is the format, ``ring`` writes it, ``reading`` finds records again, ``describing`` puts
them into words. ``tracer`` decides what is recorded, ``file`` where that may be, and ``stock``
observes the requests that pyfuse3's own loop reads. ``snapfs.fuse.replaying`` serves a trace again.
"""
