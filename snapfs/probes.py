"""The names of rare situations, so that tests can say that they have been there.

A probe stands where the code does something that it does nearly never, and that data depends on
when it does. The tests that simulate crashes, failing devices and random histories say which
probes they reach, and fail when they no longer do: a rare situation that no simulation comes to is
one in which nothing is known of the code. No probe stands where every request passes.

``doc/format.md`` and ``doc/design`` say what each situation is about; here it is one sentence. This
module imports nothing of the project.
"""

from __future__ import annotations

from typing import Final


class Probe:
    """One situation. ``hits`` counts in this process how often it was there.

    Threads that count at the same moment may count once. Whether it was there is certain.
    """

    __slots__ = ("hits", "meaning")

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning
        self.hits = 0

    def hit(self) -> None:
        """The situation is here."""
        self.hits += 1


# What a crash leaves

TORN_SUPERBLOCK: Final = Probe("a slot of a superblock ring is torn, and another slot is used")
RING_LOST: Final = Probe("the ring at the front has no superblock, and its copy at the end has")
COPY_OF_RING_AHEAD: Final = Probe("the ring at the end has a newer superblock than the front")
LOG_STALE_TAIL: Final = Probe("behind the last record of a log lies a record that does not count")
LOG_TORN_RECORD: Final = Probe("a record of a log fails its checksum, and ends the log")
LOG_BLOCKS_MISSING: Final = Probe("the last record counts not, for its blocks did not arrive")
ORPHANS_FOUND: Final = Probe("inodes without a name are found in the list of an earlier mount")

# The log

LOG_FULL: Final = Probe("a record does not fit into the rest of the log, and a commit follows")
LOG_GIVEN_UP: Final = Probe("a log is given up with a commit, for want of space or of use")
LOG_WRITE_FAILED: Final = Probe("a record could not be written, and a commit has to tell it")

# Commits

RECORDS_SPILLED: Final = Probe("the records of a group do not fit its header, and go to blocks")
RECORDS_RETURNED: Final = Probe("the records of a group fit its header again")
COMMIT_PLANNED_AGAIN: Final = Probe("planning a commit came to more groups than it had begun with")
COMMIT_GAVE_WAY: Final = Probe("a commit needs what is not in memory, and gives way in the loop")
COMMIT_WITHOUT_SPACE: Final = Probe("no blocks are left for a commit, not even of the reserve")
COMMIT_WAITS_FOR_HOST: Final = Probe("a sealed generation waits in memory for space of the host")
HOST_RESERVE_SPENT: Final = Probe("a commit spends space that was kept behind the image")
FLUSH_FAILED: Final = Probe("nobody knows whether a generation or a record is durable")

# Space

BLOCKS_PREFERRED_USED: Final = Probe("the host is full, and blocks are taken from the front")
READERS_LOST: Final = Probe("blocks that were kept for a reader are given out, and it is told")
DISCARDS_SKIPPED: Final = Probe("blocks are given out before the device was told to discard them")
DISCARD_FAILED: Final = Probe("the device could not discard, and is asked no more")
GROUP_LEFT: Final = Probe("allocation leaves a group that is nearly full for a better one")
GROUPS_FORGOTTEN: Final = Probe("clean groups leave memory because there are too many")
RETURNED_BLOCK_DROPPED: Final = Probe("a view drops a block that a restore gave back to the base")
RECORD_IS_DEFAULT: Final = Probe("a record says what the default says by now, and goes")
DELETION_CUT: Final = Probe("one step of deleting a snapshot ends within a group")

# Files

WRITE_UNDONE: Final = Probe("a write did not happen, and the blocks that it had taken go back")
TORN_WRITE_ADOPTED: Final = Probe("a write in place failed: its file has what the device has")
HEIR_MADE: Final = Probe("what a large file has lost is handed to an inode without a name")
DIRECTORY_EMPTIED: Final = Probe("a directory without a name loses its names in the background")

# Snapshots

SNAPSHOT_MADE_ROOM: Final = Probe("a snapshot of a policy is deleted because space is short")
RESTORED_IN_USE: Final = Probe("a file without a name comes back while somebody uses it")
RESTORED_UNDER_ANOTHER_NUMBER: Final = Probe("the number of a restored file is another's by now")
PAUSE_GAVE_WAY: Final = Probe("a program that writes goes on in the pause for a snapshot")

# Copies

COPIED_BEFORE_WRITE: Final = Probe("a block is given out while a copy needs what was in it")
COPIED_AGAIN: Final = Probe("a flush failed, and what was copied before it is copied once more")
COPY_HEARD_OF_LOSS: Final = Probe("a flush worked, and another one had failed since what it is for")
COPY_TARGET_SILENT: Final = Probe("the target does not answer somebody who waits to write")
COPY_TOOK_WHOLE_GROUP: Final = Probe("a group's bitmap cannot be read, and a copy takes all of it")
COPY_ENDED_BENEATH: Final = Probe("a thread that was left would write to the map of an ended copy")
COPY_WENT_ON: Final = Probe("a copy goes on after its process has ended")
COPY_WAS_COMPLETE: Final = Probe("a copy was complete, and its volume had not forgotten it")
COPY_WAS_NOT_SET_UP: Final = Probe("a copy had not been set up when its process ended")
COPY_HAD_FAILED: Final = Probe("a copy had failed, and its volume had not forgotten it")

#: All of them, by their names.
PROBES: Final = {name: value for name, value in globals().items() if isinstance(value, Probe)}
