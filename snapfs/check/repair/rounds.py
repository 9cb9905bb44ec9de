"""Repair goes in rounds: walk, write anew what is derived, mend some of what is not, commit; until
a walk finds nothing.

First come trees that cannot be read or make no sense, then, when all can be read, counters, names
and links. Each round ends with a generation that is better than the one before, and begins with
bitmaps and records that fit what is there. Whatever happens meanwhile, the device has the one or
the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from snapfs.blocks.geometry import SLOT_BYTES
from snapfs.blocks.group_header import ENTRY_WRITTEN
from snapfs.check.checker import check_volume
from snapfs.check.findings import Fault, Finding, Findings, Mend, everywhere
from snapfs.check.repair.accounting import rebuild
from snapfs.check.repair.ending import clear_description, forget_copy, take_over_log
from snapfs.check.repair.links import LinkMender
from snapfs.check.repair.salvage import Tell, salvage
from snapfs.check.repair.trees import STRUCTURAL, TreeMender
from snapfs.check.repair.workshop import Workshop
from snapfs.check.walk.reach import RECORDS, Reach
from snapfs.check.walk.tables import (
    check_superblocks,
    check_tables,
    load_group,
)
from snapfs.check.walk.trees import Walker
from snapfs.check.walk.views import ViewChecker
from snapfs.device.base import Device
from snapfs.errors import CorruptBlock, NoSpace, SnapfsError
from snapfs.filesystem import Filesystem, View
from snapfs.store.commit.driver import commit

#: Rounds after which repair gives up: damage that goes deeper needs as many as trees have levels.
ROUNDS = 16


@dataclass
class Repaired:
    """``before`` and ``after``: what the check found; ``actions``: what was done about it, in
    words.
    """

    before: list[Finding] = field(default_factory=list)
    after: list[Finding] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)


def repair_volume(device: Device, progress: Callable[[int, int], None] | None = None) -> Repaired:
    """Check the volume, and mend it if need be.

    Raises ``NotAVolume``, ``UnsupportedVersion``, ``Truncated``, ``DeviceError``; ``CorruptBlock``
    when nothing is left to start from, and ``NoSpace`` when the mended state does not fit.
    """
    result = Repaired()
    told: set[str] = set()

    def tell(action: str) -> None:
        if action not in told:
            told.add(action)
            result.actions.append(action)

    result.before = result.after = check_volume(device, progress)
    if result.before:
        take_over_log(device, tell)
    for _ in range(ROUNDS):
        if not result.after:
            break
        shortage = None
        try:
            _round(device, tell)
        except NoSpace as exc:
            shortage = exc
        before, result.after = result.after, check_volume(device, progress)
        if shortage and result.after == before:
            raise NoSpace(
                f"{device.path}: there is no space to mend it: delete files or "
                "snapshots, then repair again"
            ) from shortage
    return result


def _round(device: Device, tell: Tell) -> None:
    volume = salvage(device, tell)
    copy = forget_copy(volume, tell)
    fs = Filesystem(volume, as_sealed=True)
    findings = Findings()
    reach = Reach(volume.geometry, findings, volume.epoch)
    walker = Walker(volume, reach, findings)
    check_superblocks(volume, findings)
    check_tables(volume, walker, findings)
    checker = ViewChecker(fs, walker, findings, lambda _done, _total: None)
    checker.run()
    for number, entry in enumerate(volume.allocator.entries):
        if entry.flags & ENTRY_WRITTEN:
            group = load_group(volume, number, findings)
            for block, _ in group.spill if group else ():
                reach.claim(block, 1, RECORDS, 0, everywhere(f"records of group {number}"))
    clear_description(volume, copy, reach)
    rebuild(volume, reach)
    volume.allocator.more_to_come = lambda: False
    volume.allocator.reserve = 0  # this is what it is for
    commit(volume)  # what the old tables took, and what nothing reaches, is free for the rest
    try:
        _mend(Workshop(fs, checker, tell), findings.faults)
    finally:
        commit(volume)
    for fault in findings.faults:
        if fault.mend is Mend.CLEAR_SUPERBLOCK:
            device.write(fault.value, bytes(SLOT_BYTES))
    device.flush()


def _mend(shop: Workshop, faults: list[Fault]) -> None:
    """Trees, or if there is nothing to do about them what is counted and named."""
    structural = [fault for fault in faults if fault.mend in STRUCTURAL]
    trees = TreeMender(shop, faults)
    if structural:
        structural.sort(key=lambda fault: STRUCTURAL.index(fault.mend))
        done: set[tuple[Mend, int, int]] = set()
        for fault in structural:
            for view in list(shop.views(fault.mask)):
                if fault.mend in (Mend.REBUILD_NAMES, Mend.MAKE_DIRECTORY, Mend.CLEAR_INODE):
                    if (fault.mend, view.id, fault.ino) in done:
                        continue
                    done.add((fault.mend, view.id, fault.ino))
                _attempt(shop, trees.mend, fault, view)
        return
    links = LinkMender(shop, faults)
    for fault in faults:
        counts = fault.mend in (
            Mend.SET_BLOCKS,
            Mend.SET_INODES,
            Mend.SET_NEXT_INODE,
            Mend.SET_CONTENT,
        )
        for view in list(shop.views(fault.mask)):
            _attempt(shop, trees.count if counts else links.mend, fault, view)


def _attempt(shop: Workshop, mend: Callable[[Fault, View], None], fault: Fault, view: View) -> None:
    """Mend one fault; one that cannot be mended is found again, and the rest goes on."""
    try:
        try:
            shop.make_room()
            mend(fault, view)
        except NoSpace:
            commit(shop.volume)  # it takes less than was set aside for it
            mend(fault, view)
    except NoSpace:
        raise
    except SnapfsError as exc:
        if not isinstance(exc, CorruptBlock):
            shop.tell(f"{shop.name(view, fault.ino)}: not mended: {exc}")
