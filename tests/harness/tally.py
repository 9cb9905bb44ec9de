"""Holds every operation and every commit against what ``store.commit.costs`` says that they take:
in all tests, in this process and in daemons.

An operation may make no more dirty than it had set aside (``Allocator.prepare``); a commit may take
no more blocks than are counted as dirty, and what the tables come to. ``install`` replaces
functions of the core by ones that look at this and then do the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from snapfs import snapshots
from snapfs.filesystem import Filesystem
from snapfs.filesystem.orphans.orphans import Orphans
from snapfs.store.commit import commit, copy_map_space, costs
from snapfs.store.commit.volume import Volume
from snapfs.store.space.allocator import Allocator

#: What begins a call of the core that changes something.
_METHODS = [
    (
        Filesystem,
        (
            "make link unlink rmdir rename set_attributes set_times xattr_set xattr_remove "
            "write touch_atime work"
        ),
    ),
    (Orphans, "work_for"),
]
_FUNCTIONS = (
    "create abandon rename change_facts delete delete_set take_out schedule cancel restore "
    "restore_scheduled"
)


class Tally:
    """What one volume's open generation has set aside. ``limit``: what may be dirty, as the running
    operation has said.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.depth = 0
        self.limit: int | None = None
        self.began = 0
        #: What was dirty when the commit that is being planned was begun.
        self.expected: int | None = None
        #: What was dirty when planning ended last.
        self.planned = 0

    def begin(self) -> None:
        self.depth += 1
        if self.depth == 1:
            self.limit, self.began = None, self.volume.dirtied

    def set_aside(self, metadata: int) -> None:
        self.limit = max(metadata, self.limit or 0)

    def end(self, what: str) -> None:
        self.depth -= 1
        if not self.depth and not self.volume.read_only:
            limit = self.began if self.limit is None else self.limit
            over = self.volume.dirtied - limit
            assert over <= 0, (
                f"{what}: {self.volume.dirtied - self.began} blocks are dirty, {over} "
                "more than were set aside"
            )


def _of(volume: Volume) -> Tally:
    found: Tally | None = getattr(volume, "_tally", None)
    if found is None:
        found = Tally(volume)
        volume._tally = found  # type: ignore[attr-defined]
        volume.allocator._tally = found  # type: ignore[attr-defined]
    return found


def _watched(
    function: Callable[..., Any], volume_of: Callable[[Any], Volume]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(subject: Any, *args: Any, **kwargs: Any) -> Any:
        tally = _of(volume_of(subject))
        tally.begin()
        try:
            return function(subject, *args, **kwargs)
        finally:
            tally.end(function.__name__)

    return watched


def _prepare(prepare: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(prepare)
    def watched(self: Allocator, count: int, *, urgency: int = 0, metadata: int = 0) -> None:
        prepare(self, count, urgency=urgency, metadata=metadata)
        tally: Tally | None = getattr(self, "_tally", None)
        if tally is not None and tally.depth:
            tally.set_aside(metadata)

    return watched


def _plan(plan: Callable[[Volume], None]) -> Callable[[Volume], None]:
    @functools.wraps(plan)
    def watched(volume: Volume) -> None:
        tally = _of(volume)
        # Planning counts what it makes dirty once more. An attempt that broke off may be begun anew
        # when more is dirty.
        tally.expected = (
            volume.dirtied
            if tally.expected is None
            else tally.expected + volume.dirtied - tally.planned
        )
        try:
            plan(volume)
        finally:
            tally.planned = volume.dirtied

    return watched


def _seal(seal: Callable[[Volume], Any]) -> Callable[[Volume], Any]:
    @functools.wraps(seal)
    def watched(volume: Volume) -> Any:
        tally, allocator = _of(volume), volume.allocator
        expected, tally.expected = tally.expected or 0, None
        tables = costs.of_tables(volume)
        taken = 0
        allocate = allocator.allocate

        def counting(count: int) -> list[tuple[int, int]]:
            nonlocal taken
            taken += count
            return allocate(count)

        allocator.allocate = counting  # type: ignore[method-assign]
        try:
            return seal(volume)
        finally:
            del allocator.allocate
            assert taken <= expected + tables, (
                f"a commit took {taken} blocks: {expected} were dirty, {tables} for "
                "tables were expected"
            )

    return watched


@functools.cache
def install() -> None:
    """Look at all that this process does from now on. A worker of the tests is asked twice: it is a
    process of theirs as well.
    """
    for owner, names in _METHODS:
        for name in names.split():
            setattr(
                owner,
                name,
                _watched(
                    getattr(owner, name),
                    lambda one: one.volume if isinstance(one, Filesystem) else one._views.volume,
                ),
            )
    for name in _FUNCTIONS.split():
        setattr(snapshots, name, _watched(getattr(snapshots, name), lambda fs: fs.volume))
    copy_map_space.allocate_map = _watched(copy_map_space.allocate_map, lambda volume: volume)
    Allocator.prepare = _prepare(Allocator.prepare)  # type: ignore[method-assign]
    commit.plan = _plan(commit.plan)  # type: ignore[assignment]
    commit._seal = _seal(commit._seal)  # type: ignore[assignment]
