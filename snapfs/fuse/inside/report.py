"""What a daemon is doing, in lines for its log: which requests wait, for what, and since when.

For somebody who looks at a mount that hangs. ``Report.lines`` is called in the event loop, where
nothing changes meanwhile; when that does not answer, ``Report.from_outside`` is called in another
thread, and reads only what cannot break by being read in the middle of a change. Neither waits for
anything, and neither changes anything.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any, Final

import trio

from snapfs.errors import SnapfsError
from snapfs.fuse.driving.autodelete import AutoDelete
from snapfs.fuse.driving.commits import Commits
from snapfs.fuse.driving.edge import Edge
from snapfs.fuse.driving.gate import Gate
from snapfs.fuse.driving.metrics import InProgress
from snapfs.fuse.driving.threads import THREADS, Pool, ThreadJob, in_thread, jobs
from snapfs.fuse.inside.coroutines import frames_of, stack_of, where
from snapfs.fuse.kernel.mounted import MountedKernel
from snapfs.fuse.protocol.numbers import SNAPDIR_BIT, Numbers
from snapfs.fuse.protocol.wire import Op, name_of
from snapfs.fuse.serving.loop import Loop
from snapfs.ids import BASE_VIEW
from snapfs.interrupts import Interrupt
from snapfs.snapshots.naming import ancestry, path_of

#: Lines of one part of a report, at most: hundreds of requests can wait for the same.
MOST_LINES: Final = 250

#: What requests for attributes wait for that keep no task.
_PAUSED: Final = "a snapshot that is being made: who is about to write is kept back"
_SHORT: Final = "the size of a file that found no space, of which the kernel is being told"

#: Where operations on snapshots wait for one another.
_SNAPSHOTS: Final = inspect.unwrap(Edge._snapshots_alone).__code__

#: What somebody waits for who waits in one of these functions.
_WORDS: Final[dict[CodeType, str]] = {
    Commits._done.__code__: "a commit, or a record of the log",
    Commits.relieve.__code__: "the commit in flight: too much is dirty to go on before it ends",
    Gate.passed.__code__: "the gate: a restore, or a copy that begins, keeps changes out",
    AutoDelete.make.__code__: "space: automatic deletion is making some",
    _SNAPSHOTS: "its turn: another operation on snapshots",
}


class Report:
    """About one mount, ``what`` in words. To be made in its event loop, when it is live."""

    def __init__(self, edge: Edge, what: str) -> None:
        kernel = edge.kernel
        assert isinstance(kernel, MountedKernel)  # noqa: S101 - as the mount is live
        self._edge = edge
        self._kernel = kernel
        self._numbers = kernel._numbers
        self._what = what
        self._jobs = jobs()
        self._root = trio.lowlevel.current_root_task()
        self._loop_thread = threading.get_ident()

    def lines(self, asker: int) -> list[str]:
        """The whole report, for the thread of that number. To be called in the event loop."""
        head = f"report of {self._what}: the event loop answers"
        return [head, *self._parts(asker, self._path)]

    def from_outside(self) -> list[str]:
        """The same for another thread to call, when the event loop does not answer."""
        head = f"report of {self._what}: the event loop does not answer; it is in"
        frame = sys._current_frames().get(self._loop_thread)
        lines = [head, *_below(stack_of(frame) or ["code of others"])]
        while frame is not None and frame.f_code is not Loop._read.__code__:
            frame = frame.f_back
        if frame is not None:
            lines += _below(self._answering(frame.f_locals))
        return [*lines, *self._parts(threading.get_ident(), lambda _view_id, _ino: "")]

    def _answering(self, found: dict[str, Any]) -> Iterator[str]:
        """The request that the event loop itself works on. ``found``: what ``Loop._read`` has."""
        if "node" in found and "began" in found:
            opcode, unique, node = (found[name] for name in ("opcode", "unique", "node"))
            numbers = found["self"]._numbers
            what = self._named(opcode, unique, numbers, node, lambda _view_id, _ino: "")
            yield f"and works on {what}, for {time.perf_counter() - found['began']:.3f} s"

    def _parts(self, asker: int, path: Callable[[int, int], str]) -> list[str]:
        parts = (self._requests(path), self._threads(asker), self._figures(), self._tasks())
        return [line for part in parts for line in _bounded(part)]

    # --- requests ---

    def _requests(self, path: Callable[[int, int], str]) -> Iterator[str]:
        now = time.perf_counter()
        waiting = sorted(self._edge.metrics.waiting.copy(), key=lambda one: one.arrived)
        held = [(each, _PAUSED) for each in self._kernel.pause.held()]
        held += [(each, _SHORT) for each in self._kernel.shortage.held()]
        yield f"requests in progress: {len(waiting) + len(held)}"
        for (since, unique, node), reason in held:
            what = self._named(Op.GETATTR, unique, self._numbers, node, path)
            yield f"  {what}, for {time.monotonic() - since:.3f} s, waits for"
            yield f"    {reason}"
        for one in waiting:
            what = self._named(one.opcode, one.unique, one.numbers, one.node, path)
            yield f"  {what}, for {now - one.arrived:.3f} s, waits for"
            yield from _below(self._reason(one, now), 2)

    def _named(
        self,
        opcode: int,
        unique: int,
        numbers: Numbers,
        node: int,
        path: Callable[[int, int], str],
    ) -> str:
        view_id, ino = numbers.split(node)
        instance = self._edge.volume.instances.table.get(view_id)
        view = f"snapshot {instance.name}" if instance else f"view {view_id}"
        tree = "the base" if view_id == BASE_VIEW else view
        kind = "the .snap of inode" if node & SNAPDIR_BIT else "inode"
        return f"{name_of(opcode)} {path(view_id, ino)}({kind} {ino} in {tree}; request {unique})"

    def _path(self, view_id: int, ino: int) -> str:
        """The path of an inode, if that is in memory."""
        fs = self._edge.fs
        with contextlib.suppress(SnapfsError, Interrupt):
            view = fs.view(view_id) if view_id != BASE_VIEW else fs.base
            inode = view.inode(ino)
            ancestry(view, inode)  # ends where directories form a cycle
            return f"of {path_of(fs, view, inode)} "
        return ""

    def _reason(self, one: InProgress, now: float) -> list[str]:
        frames = list(frames_of(one.coroutine))
        for frame in reversed(frames):
            if frame.f_code is in_thread.__code__ and "job" in frame.f_locals:
                return self._job(frame.f_locals["job"], now)
            if frame.f_code in _WORDS:
                return [_WORDS[frame.f_code], *self._before(frame.f_code), where(frames)]
        return [where(frames)]

    def _before(self, code: CodeType) -> Iterator[str]:
        """Who has the turn that somebody waits for who waits there."""
        owner = self._edge._snapshot_lock.statistics().owner if code is _SNAPSHOTS else None
        if owner is not None:
            yield f"  which {where(frames_of(owner.coro), (in_thread.__code__,))}"

    # --- threads ---

    def _threads(self, asker: int) -> Iterator[str]:
        now = time.perf_counter()
        jobs = sorted(self._jobs.copy(), key=lambda job: job.since)
        yield f"worker threads and what waits for one: {len(jobs)}"
        for job in jobs:
            yield from _below(self._job(job, now))
        known = {job.thread for job in jobs} | {self._loop_thread, asker}
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for number, frame in sys._current_frames().items():
            if number not in known and (stack := stack_of(frame)):
                yield f"  the thread {names.get(number, number)}, in"
                yield from _below(stack, 2)

    def _job(self, job: ThreadJob, now: float) -> list[str]:
        pool, for_long = job.pool, f"for {now - job.since:.3f} s"
        if job.thread is None:
            same = (one for one in self._jobs.copy() if one.pool is pool)
            busy = sum(1 for one in same if one.thread is not None)
            about = f"{busy} of {THREADS[pool]} are busy ({pool.value})"
            return [f"a free thread of {pool.name.lower()}, {for_long}: {about}"]
        stack = stack_of(sys._current_frames().get(job.thread))[1:]  # the first is of ``in_thread``
        head = f"a thread of {pool.name.lower()}, {for_long} ({pool.value}), in"
        return [head, *(f"  {line}" for line in stack or [job.name])]

    # --- figures ---

    def _figures(self) -> Iterator[str]:
        volume, edge = self._edge.volume, self._edge
        allocator, sealed = volume.allocator, volume.in_flight
        if volume.read_only:
            yield f"read-only: {volume.read_only_reason or 'as mounted'}"
        state = edge.commits.state()
        yield f"commits: {', '.join(f'{name} {_told(value)}' for name, value in state.items())}"
        if sealed is not None:
            about = f"{len(sealed.blocks)} blocks of metadata"
            writers = [job for job in self._jobs.copy() if job.pool is Pool.COMMITS and job.thread]
            for_long = f", for {time.perf_counter() - writers[0].since:.3f} s" if writers else ""
            unsure = "; a flush of it has begun or failed" if sealed.is_unsure else ""
            yield f"  generation {sealed.generation} is on its way ({about}){for_long}{unsure}"
        figures = {
            "free": allocator.free,
            "available": allocator.available,
            "reserve": allocator.reserve,
            "held by snapshots": allocator.held,
            "waiting to be freed": sum(length for _, _, length in list(allocator.waiting)),
            "and of commits in flight": allocator.in_flight,
        }
        yield f"blocks: {', '.join(f'{name} {value}' for name, value in figures.items())}"
        counters = ", ".join(f"{name} {value}" for name, value in volume.statistics().items())
        yield f"counters: {counters}"
        yield "latencies:"
        for name, found in edge.metrics.figures().items():
            times = ", ".join(
                f"{part} {found[part + '_us']:g}" for part in ("p50", "p99", "p999", "max")
            )
            yield f"  {name}: {found['count']}, in microseconds {times}"

    # --- tasks ---

    def _tasks(self) -> Iterator[str]:
        yield "tasks:"
        todo: list[tuple[int, Any]] = [(1, self._root)]
        while todo:
            depth, task = todo.pop()
            at = where(frames_of(task.coro), (in_thread.__code__,))
            yield f"{'  ' * depth}{task.name.removeprefix('snapfs.')}, in {at}"
            nurseries = list(task.child_nurseries)
            todo += [(depth + 1, child) for one in nurseries for child in list(one.child_tasks)]


def _told(value: int | bool) -> str:
    return str(value) if type(value) is int else ("yes" if value else "no")


def _below(lines: Iterable[str], depth: int = 1) -> Iterator[str]:
    return ("  " * depth + line for line in lines)


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    more = 0
    for number, line in enumerate(lines):
        if number < MOST_LINES:
            yield line
        else:
            more += 1
    if more:
        yield f"  ... and {more} lines more"
