"""What holds in the views of all snapshots of an open volume, beside what is said about each: set
once, by whoever shows them to users.
"""

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

#: Bits of a mode that let a program act as somebody else.
SET_ID: Final = stat.S_ISUID | stat.S_ISGID


@dataclass(slots=True)
class Rules:
    """What users may do and see there.

    ``read_only``: they change nothing. ``set_id``: they see set-id bits and capabilities of files.
    ``devices``: they see devices' numbers.

    A kernel honours what it sees. So what is taken away in the live tree would go on working in
    snapshots if it were shown there; what is hidden stays stored. The core that hides it must then
    itself do with it what a kernel does that knows of it.
    """

    #: Views that have mounts of their own, and how many: nobody changes or deletes them meanwhile.
    fixed: Counter[int] = field(default_factory=Counter)
    #: Views in which others have mounted something, and where, while some are being deleted.
    carriers: dict[int, str] = field(default_factory=dict)
    read_only: bool = False
    set_id: bool = True
    devices: bool = True
