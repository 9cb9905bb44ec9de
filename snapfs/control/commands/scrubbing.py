"""The command ``scrub``: drives a walk of the core at the pace that was asked for, and tells what
it finds while it goes on.

Events are ``{"read": bytes, "total": bytes, "findings": [...]}``. The result has the counts; all
findings have been told by then. Nothing here stops users: reads happen in threads, and what the
loop does between two of them is bounded by what one of them has brought.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from snapfs import ids
from snapfs.blocks.inode import INODE_BYTES
from snapfs.check.scrub.places import Damage, TreeKind
from snapfs.check.scrub.scrubbing import Scrub
from snapfs.check.scrub.whereabouts import (
    ShownDamage,
    holders,
    shown,
)
from snapfs.control.socket.caller import Caller
from snapfs.control.socket.protocol import Result
from snapfs.errors import SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.interrupts import NotCached
from snapfs.printable import printable

log = logging.getLogger("snapfs.control")

T = TypeVar("T")

#: Seconds between two events, at most: so long may it take until it is noticed that the caller has
#: gone.
EVENT_SECONDS: Final = 0.5

#: Findings in one event, which must not become too long for a line of the protocol.
EVENT_FINDINGS: Final = 16

#: Findings that are told; more are only counted.
FINDINGS_MAX: Final = 10_000

#: Findings that the daemon logs.
LOGGED_MAX: Final = 100

#: Views of a damaged block that are looked at; of more, the number is told.
VIEWS_MAX: Final = 50

#: Names of snapshots in one line.
NAMES_MAX: Final = 10

#: How often a place is looked for while blocks are freed and used again under it.
TRIES: Final = 5


async def scrub(
    fs: Filesystem,
    caller: Caller,
    rate: int | None,
    *,
    log_it: bool = False,
    trouble: str | None = None,
) -> Result:
    """Scrub. Returns when all has been read; ends with whatever ``caller`` raises when it has gone.

    ``trouble`` is why the volume could not be opened as a whole: a finding, unless damage explains
    it.
    """
    step = {} if rate is None else {"step_bytes": max(1, rate // 4)}
    with Scrub(fs, **step) as work:
        scrubbing = _Scrubbing(fs, caller, rate, work, log_it=log_it)
        await scrubbing.run()
        if trouble is not None and not scrubbing.errors:
            await scrubbing.volume_trouble(trouble)
        return scrubbing.result()


class _Scrubbing:
    def __init__(
        self, fs: Filesystem, caller: Caller, rate: int | None, work: Scrub, *, log_it: bool
    ) -> None:
        self.fs = fs
        self.caller = caller
        self.rate = rate
        self.work = work
        self.log_it = log_it
        self.errors = 0
        self._told = 0.0
        self._began = self._due = time.monotonic()
        self._paid = 0

    async def run(self) -> None:
        work = self.work
        steps = work.steps()
        if self.log_it:
            log.info("scrub: began")
        try:
            wanted = next(steps)
            while True:
                found = await self.caller.in_thread(work.verifier.read, wanted)
                try:
                    wanted = steps.send(found)
                finally:
                    await self._tell(await self._findings())
                await self._keep_pace()
        except StopIteration:
            await self._tell([], now=True)
        if self.log_it:
            log.info(
                "scrub: ended: %d bytes read, %d blocks damaged", work.verifier.bytes, self.errors
            )

    async def volume_trouble(self, problem: str) -> None:
        """The volume as a whole is what is wrong."""
        self.errors += 1
        await self._tell(
            [_document(None, "volume", problem, f"the volume cannot be opened: {problem}")]
        )

    def result(self) -> Result:
        """The counts."""
        verifier = self.work.verifier
        seconds = time.monotonic() - self._began
        return {
            "blocks_read": verifier.blocks,
            "bytes_read": verifier.bytes,
            "errors": self.errors,
            "seconds": round(seconds, 3),
        }

    async def _keep_pace(self) -> None:
        """Wait until what has been read was allowed to be read."""
        if self.rate is None:
            return
        read = self.work.verifier.bytes
        self._due += (read - self._paid) / self.rate
        self._paid = read
        while (left := self._due - time.monotonic()) > 0:
            await self.caller.pause(min(left, EVENT_SECONDS))
            await self._tell([])
        self._due = max(
            self._due, time.monotonic() - EVENT_SECONDS
        )  # what was late is not made up for all at once

    async def _tell(self, findings: list[Result], *, now: bool = False) -> None:
        if findings or now or time.monotonic() - self._told >= EVENT_SECONDS:
            self._told = time.monotonic()
            read = self.work.verifier.bytes
            total = read if now else self.work.total_bytes
            for first in range(0, len(findings) or 1, EVENT_FINDINGS):
                some = findings[first : first + EVENT_FINDINGS]
                await self.caller.tell({"read": read, "total": total, "findings": some})

    async def _findings(self) -> list[Result]:
        damage, self.work.damage = self.work.damage, []
        out = []
        for one in damage:
            if self.errors >= FINDINGS_MAX:
                self.errors += 1
                continue
            finding = await self._finding(one)
            if finding is None:
                continue
            self.errors += 1
            out.append(finding)
            if self.log_it and self.errors <= LOGGED_MAX:
                log.error("scrub: %s", finding["message"])
                if self.errors == LOGGED_MAX:
                    log.error("scrub: further damage is not logged")
        return out

    async def _finding(self, damage: Damage) -> Result | None:
        """A finding as it is told, or None when its block has been freed by now."""
        if damage.place is None or damage.place.tree.kind in (
            TreeKind.GROUPS,
            TreeKind.SETS,
            TreeKind.INSTANCES,
        ):
            return finding(self.fs, damage, [], 0)
        own = damage.place.tree.view
        try:
            views = await self._look(holders, self.fs, damage)
            if views is None:
                return None
        except SnapfsError:  # the records are damaged, too: of data, the pointers tell
            is_data = damage.place.tree.kind is TreeKind.DATA and damage.place.level == 0
            views = (
                [ids.BASE_VIEW, *(one.id for one in self.fs.volume.instances.live())]
                if is_data
                else []
            )
        if own not in views:
            views.append(own)
        found: list[ShownDamage] = []
        guesses: dict[int, bytes] = {}
        for view in sorted(views, key=lambda view: view != own)[:VIEWS_MAX]:
            try:
                one = await self._look(shown, self.fs, damage, view, guesses)
            except SnapfsError:  # as above, for directories
                one = ShownDamage(self._name(view), None)
            if one is not None:
                found.append(one)
        found.sort(key=lambda one: one.snapshot is not None)
        return finding(self.fs, damage, found, max(0, len(views) - VIEWS_MAX))

    def _name(self, view: int) -> str | None:
        one = self.fs.volume.instances.table.get(view)
        return one.name if one else None

    async def _look(self, function: Callable[..., T], *args: Any) -> T:
        """Ask the core. Not by the engine: damage that is met while damage is described must not
        end the volume's life.
        """
        volume = self.fs.volume
        failures = 0
        while True:
            try:
                return function(*args)
            except NotCached as why:
                try:
                    loaded = await self.caller.in_thread(volume.read_wants, why.wants)
                except SnapfsError:
                    failures += 1
                    if failures == TRIES:
                        raise
                else:
                    volume.admit(loaded)


def finding(fs: Filesystem, damage: Damage, views: list[ShownDamage], more: int) -> Result:
    """The finding for a damaged block that these views show, and ``more`` others."""
    what, inode, offset = _part(fs, damage)
    path = next((one.path for one in views if one.path is not None), None)
    name = path if path is not None else f"inode {inode}"
    text = what
    if inode is not None:
        text = f"{what} of {name}"
        if offset is not None:
            text += f" from byte {offset} on"
    if (
        damage.place is not None
        and damage.place.tree.kind is TreeKind.INODES
        and damage.place.level == 0
    ):
        per_leaf = fs.volume.geometry.block_size // INODE_BYTES
        first = damage.place.number * per_leaf
        text += f" (inodes {first} to {first + per_leaf - 1})"
    text += _in_views(views, more)
    is_data = (
        damage.place is not None
        and damage.place.tree.kind is TreeKind.DATA
        and damage.place.level == 0
    )
    return {
        **_document(
            damage.block, what, damage.problem, f"block {damage.block}: {text}: {damage.problem}"
        ),
        "kind": "data" if is_data else "metadata",
        "inode": inode,
        "offset": offset,
        "views": [{"snapshot": one.snapshot, "path": one.path} for one in views],
        "more_views": more,
    }


def _document(block: int | None, what: str, problem: str, message: str) -> Result:
    """What all findings have, in the order in which they have it."""
    document: Result = {
        "block": block,
        "kind": "metadata",
        "what": what,
        "inode": None,
        "offset": None,
        "views": [],
        "more_views": 0,
    }
    return {**document, "problem": problem, "message": printable(message)}


def _part(fs: Filesystem, damage: Damage) -> tuple[str, int | None, int | None]:
    """What the block is, and of which inode, from which byte on."""
    place = damage.place
    if place is None:
        return damage.part, None, None
    kind = place.tree.kind
    if kind in (TreeKind.GROUPS, TreeKind.SETS, TreeKind.INSTANCES, TreeKind.INODES):
        return str(kind), None, None
    if kind is not TreeKind.DATA:
        return str(kind), place.tree.ino, None
    geometry = fs.volume.geometry
    offset = (place.number << geometry.fan_bits * place.level) * geometry.block_size
    return "pointers" if place.level else str(kind), place.tree.ino, offset


def _in_views(views: list[ShownDamage], more: int) -> str:
    """``, in the live tree and 2 snapshots (monday, tuesday)``"""
    names = [one.snapshot for one in views if one.snapshot is not None]
    words = ["the live tree"] if any(one.snapshot is None for one in views) else []
    if names:
        left = len(names) - NAMES_MAX + more
        listed = ", ".join(names[:NAMES_MAX]) + (f", {left} more" if left > 0 else "")
        words.append(f"snapshot {listed}" if len(names) + more == 1 else f"snapshots {listed}")
    return f", in {' and '.join(words)}" if words else ""
