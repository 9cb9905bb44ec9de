"""Repair mends whatever the checker finds, loses nothing that can be read, says what it does lose,
and can be taken back (I1 to I8).
"""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path

import pytest

from snapfs.check.repair import Repaired, UndoDevice, repair_volume, undo
from snapfs.device.base import Buffer, SoleUse
from snapfs.errors import DeviceError, SnapfsError, UsageError
from snapfs.filesystem.format import format_volume
from tests.damage.cases import CASES, Case
from tests.damage.planting import BLOCK, Planted, everything, metadata, planted
from tests.harness.sparse import SparseDevice

Shown = dict[tuple[object, ...], object]

pristine = functools.cache(lambda: everything(planted()))


#: The snapshot of a directory, and the directories on the way to that one.
PART, ABOVE = 5, (1, 18)

SNAPSHOTS = {1: "one", 2: "two", 4: "copy", 5: "part"}


def is_said(key: tuple[object, ...], actions: list[str]) -> bool:
    """Does any action speak of what is lost there?"""
    view, ino, _ = key
    for action in actions:
        if view in SNAPSHOTS and action.startswith(
            f"snapshot {SNAPSHOTS[view]}: none of its inodes can be read"
        ):
            return True
        if (
            "generation" in action
            or "table of snapshots" in action
            or re.search(rf"\binode {ino}\b", action)
        ):
            return True
        span = re.search(r"inodes (\d+) to (\d+)", action)
        if span and int(span[1]) <= ino <= int(span[2]):
            return True
    return False


def unsaid(before: Shown, after: Shown, actions: list[str]) -> list[tuple[object, ...]]:
    """What is not as it was, and no action speaks of it. A directory that has ``lost+found``
    besides has lost nothing.
    """
    out = []
    for key, value in before.items():
        found = after.get(key)
        if key[2] == "names" and type(found) is list:
            found = [entry for entry in found if entry.name != b"lost+found"]
        if key[0] == PART and key[2] == "names" and key[1] in ABOVE:
            # a snapshot of a directory shows nothing but the way to it there, and the way may lead
            # through lost+found now
            continue
        if found != value and not is_said(key, actions):
            out.append(key)
    return out


#: What these plant is seen by users, before the repair and after it.
SEEN = {
    "a_block_is_at_two_places_of_a_file",
    "a_block_lies_behind_the_end_of_a_file",
    "a_file_is_larger_than_any_can_be",
    "a_file_without_a_name_is_no_orphan",
    "a_snapshot_covers_a_file_that_is_elsewhere",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.plant.__name__}")
def test_damage_stays_or_something_else_is_lost(case: Case) -> None:
    """For every rule of the checker: planted, found, mended, clean; and whatever the damage did not
    touch is as it was.
    """
    p = planted()
    case.plant(p)
    if not p.is_written:
        p.commit()
    before = [finding.message() for finding in p.check()]
    result = repair_volume(p.device)
    assert [finding.message() for finding in result.before] == before
    assert [finding.message() for finding in result.after] == []
    assert p.check() == []
    p.open()
    after = everything(p)
    if p.device.size == planted().device.size:
        lost = unsaid(pristine(), after, result.actions)
        assert case.plant.__name__ in SEEN or all(
            key[2] == "names" and is_made(key, after) for key in lost
        ), (lost, result.actions)


def is_made(key: tuple[object, ...], after: Shown) -> bool:
    """Is a directory as it was, apart from what the case made in it?"""
    names = {entry.name for entry in after[key]}  # type: ignore[attr-defined]
    return {entry.name for entry in pristine()[key]} <= names  # type: ignore[attr-defined]


def test_a_clean_volume_is_written_to() -> None:
    p = planted()
    p.device.write = refuse
    result = repair_volume(p.device)
    assert result == Repaired([], [], [])


def refuse(offset: int, data: Buffer) -> None:
    raise AssertionError(f"{len(data)} bytes written at {offset}")


def test_a_flipped_bit_of_metadata_costs_more_than_its_block() -> None:
    """Each metadata block in turn: clean after the repair, and nothing is
    lost that is not named.
    """
    p = planted()
    places = list(metadata(p))
    rnd = random.Random(5)
    for what, block in places:
        p = planted()
        p.flip(block * BLOCK + rnd.randrange(40), rnd.randrange(8))
        result = repair_volume(p.device)
        assert result.before or what == "root record", f"{what}, block {block}"
        assert [finding.message() for finding in result.after] == [], f"{what}, block {block}"
        p.open()
        assert unsaid(pristine(), everything(p), result.actions) == [], (
            f"{what}, block {block}: {result.actions}"
        )


def test_damage_at_many_places_is_too_much() -> None:
    """Several blocks at once: mended, or one clear error; never another exception, and never
    something else than what was there.
    """
    blocks = [block for what, block in metadata(planted()) if what != "root record"]
    rnd = random.Random(6)
    mended = 0
    for _ in range(20):
        p = planted()
        for block in rnd.sample(blocks, rnd.randrange(2, 12)):
            p.flip(block * BLOCK + rnd.randrange(BLOCK), rnd.randrange(8))
        try:
            result = repair_volume(p.device)
        except SnapfsError:
            continue
        assert [finding.message() for finding in result.after] == []
        mended += 1
        p.open()
        for key, value in everything(p).items():
            if type(key[2]) is int and key in pristine() and value is not None:
                old = pristine()[key]
                assert value == old or not any(value), f"{key}: neither what was there nor zeros"  # type: ignore[call-overload]
    assert mended > 15


# Taking it back


class Stopping(SoleUse):
    """A device that dies before its n-th write."""

    def __init__(self, below: object, writes: int) -> None:
        self._below, self.left = below, writes

    def __getattr__(self, name: str) -> object:
        return getattr(self._below, name)

    def write(self, offset: int, data: Buffer) -> None:
        if self.left == 0:
            raise DeviceError("the device is gone")
        self.left -= 1
        self._below.write(offset, data)  # type: ignore[attr-defined]


def damaged() -> Planted:
    """Bitmaps, a directory and the group table are damaged."""
    p = planted()
    for what, block in list(metadata(p)):
        if what in ("group header", "directory"):
            p.flip(block * BLOCK + 9)
    return p


def test_undo_leaves_a_byte_as_the_repair_made_it(tmp_path: Path) -> None:
    p = damaged()
    before = p.device.read(0, p.device.size)
    keeping = UndoDevice(p.device, str(tmp_path / "undo"))
    result = repair_volume(keeping)
    keeping.close()
    assert result.before and not result.after
    assert p.device.read(0, p.device.size) != before
    assert undo(p.device, str(tmp_path / "undo")) > 0
    assert p.device.read(0, p.device.size) == before


def test_a_repair_that_is_interrupted_cannot_be_taken_back_or_finished(tmp_path: Path) -> None:
    """I8 for repair: the device dies at some write, the first and the last ones among them."""
    before = damaged().device.read(0, damaged().device.size)
    counting = Stopping(damaged().device, 1 << 30)
    repair_volume(counting)  # type: ignore[arg-type]
    writes = (1 << 30) - counting.left
    assert writes > 8
    for stop in {0, 1, 2, writes // 3, writes // 2, writes - 3, writes - 2, writes - 1}:
        p = damaged()
        path = tmp_path / f"undo-{stop}"
        keeping = UndoDevice(Stopping(p.device, stop), str(path))  # type: ignore[arg-type]
        with pytest.raises(DeviceError):
            repair_volume(keeping)
        keeping._file.close()  # type: ignore[union-attr] # as when the process dies
        shadow = p.device.copy()
        assert not repair_volume(shadow).after
        undo(p.device, str(path))
        assert p.device.read(0, p.device.size) == before


def test_a_wrong_undo_file_is_used(tmp_path: Path) -> None:
    p = damaged()
    path = tmp_path / "undo"
    keeping = UndoDevice(p.device, str(path))
    repair_volume(keeping)
    keeping.close()
    other = SparseDevice(p.device.size)
    format_volume(other)
    with pytest.raises(UsageError, match="another volume"):
        undo(other, str(path))
    p.open()
    p.make("", "made after the repair", 0o100644)
    p.commit()
    with pytest.raises(UsageError, match="changed after"):
        undo(p.device, str(path))
    for content in (b"", b"\0" * 100, b"\x81", path.read_bytes()[1:], b"\x93\1\2\3"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="not an undo file"):
            undo(p.device, str(path))
    with pytest.raises(UsageError, match="No such file"):
        undo(p.device, str(tmp_path / "missing"))
    (tmp_path / "there").write_bytes(b"precious")
    keeping = UndoDevice(damaged().device, str(tmp_path / "there"))
    with pytest.raises(UsageError, match="--undo-file"):
        repair_volume(keeping)
    keeping.close()
    assert (tmp_path / "there").read_bytes() == b"precious"
