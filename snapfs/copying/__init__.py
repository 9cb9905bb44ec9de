"""Full copies: a volume as it is at one moment, in other storage, usable as that at once while it
is filled behind.

``job`` is one copy from beginning to end; ``opening`` is how anybody opens an image that may be an
unfinished copy; ``resuming`` goes on after a crash.
"""

from snapfs.copying.before_write import without_copy
from snapfs.copying.job import (
    BLOCKED,
    CANCELLED,
    COMPLETE,
    COPYING,
    FAILED_STATE,
    PAUSED,
    SETTING_UP,
    CopyJob,
    Wishes,
    detach,
)
from snapfs.copying.map_on_volume import unregister
from snapfs.copying.opening import mark_of, open_image
from snapfs.copying.resuming import attach, give_up, resume_unregistered

__all__ = [
    "BLOCKED",
    "CANCELLED",
    "COMPLETE",
    "COPYING",
    "FAILED_STATE",
    "PAUSED",
    "SETTING_UP",
    "CopyJob",
    "Wishes",
    "attach",
    "detach",
    "give_up",
    "mark_of",
    "open_image",
    "resume_unregistered",
    "unregister",
    "without_copy",
]
