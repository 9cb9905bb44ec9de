"""Serves a trace once more, without a kernel: every request goes through the loop that serves
mounts.

Given a copy of the image as it was when the trace began, the same answers are expected, and the
same tree results. Requests go one after another, in the order in which they were answered: what a
request needs of another one it has then, for nobody asks by what he was not told yet. The clock of
the volume shows what it showed then.

Inode numbers may turn out otherwise, as an inode that is freed in the background may be free
earlier or later. So numbers and handles that were answered then are replaced by those that are
answered now. Not compared are times, and figures of space, which depend on when commits happen;
nor, where the trace has only checksums of what was written, what is read: as many bytes are written
then, which depend on the checksum.

What did not come from the kernel is not in a trace: commands to the daemon, as ``snapfs restore``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import trio

from snapfs import snapshots
from snapfs.errors import UsageError
from snapfs.filesystem import Filesystem
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.kernel.mounted import MountedKernel
from snapfs.fuse.mount.mounting import set_up
from snapfs.fuse.options import MountOptions
from snapfs.fuse.protocol.numbers import Numbers
from snapfs.fuse.replaying.correspondence import Correspondence, Mismatch
from snapfs.fuse.replaying.playback import Playback
from snapfs.fuse.requests.operations import Operations
from snapfs.fuse.serving.loop import Loop
from snapfs.fuse.tracing.reading import Gap
from snapfs.fuse.tracing.record import Header, Record
from snapfs.ids import BASE_VIEW
from snapfs.store.commit.driver import drive

#: Requests that are worked on at once: one, and those that nobody answers.
_TASKS: Final = 8

#: Between two commits that nothing asks for, in seconds: a replay needs none.
_NO_COMMITS: Final = 86_400.0


@dataclass(frozen=True)
class Replay:
    """What came of it. ``skipped``: see ``Playback``."""

    served: int
    skipped: int
    mismatches: list[Mismatch]


async def replay(fs: Filesystem, header: Header, records: Iterable[Record | Gap]) -> Replay:
    """Serve ``records`` on a volume that nobody else uses; committed when this returns.

    Raises ``UsageError`` for a trace that makes no sense, and what commits raise.
    """
    options = _options(header)
    uid = header.facts.get("uid")
    set_up(fs, options, uid if isinstance(uid, int) else 0)
    root_view = BASE_VIEW
    if options.snapshot is not None:
        root_view = drive(fs.volume, snapshots.get, fs, options.snapshot).id
    edge = Edge(fs, commit_seconds=_NO_COMMITS)
    numbers = Numbers(root_view)
    known = Known(numbers, lambda view_id, ino: fs.hold(fs.view(view_id), ino))
    fs.view_ids_in_use = lambda: known.views_in_use() | {root_view}
    kernel = MountedKernel(edge, known, numbers, "/")
    kernel.notices = _Silence()
    fs.orphans.unnamed = kernel.lost_name
    operations = Operations(edge, known, numbers, kernel, options, fs.volume.geometry.block_size)

    def before(record: Record) -> None:
        now = header.time(record.began + record.took)
        fs.now = lambda: now

    answers = Correspondence(has_data=bool(header.facts.get("has_data")))
    playback = Playback(records, answers, before)
    async with trio.open_nursery() as background:
        background.start_soon(edge.run)
        background.start_soon(kernel.run)
        await Loop(playback, operations, _TASKS).run()
        for node in list(known.orphans):
            known.drop(node, 1 << 62)
            await operations.release_inode(node)
        await edge.finish()
        background.cancel_scope.cancel()
    return Replay(playback.served, playback.skipped, answers.mismatches)


def _options(header: Header) -> MountOptions:
    """The mount's, as far as this version knows them."""
    given = header.facts.get("options")
    names = {one.name for one in dataclasses.fields(MountOptions)}
    try:
        values: dict[str, Any] = {
            name: value for name, value in dict(given or {}).items() if name in names
        }
        return MountOptions(**{**values, "kernel": frozenset(values.get("kernel", ()))})
    except (TypeError, ValueError) as exc:
        raise UsageError("the trace does not say how the volume was mounted") from exc


class _Silence:
    """A kernel that believes nothing, so that it need not forget."""

    def forget_inode(self, node: int, *, attributes_only: bool) -> None:
        """See ``notices.Notices``."""

    def forget_name(self, parent: int, name: bytes) -> None:
        """See ``notices.Notices``."""

    def expire_name(self, parent: int, name: bytes) -> None:
        """See ``notices.Notices``."""

    def prune(self, nodes: list[int]) -> None:
        """See ``notices.Notices``."""

    def expire_all(self) -> None:
        """See ``notices.Notices``."""
