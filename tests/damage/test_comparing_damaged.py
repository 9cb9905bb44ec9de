"""Comparing states drives the core as well: metadata that it finds damaged ends writing, as it does
for all others (I1, I7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import pytest

from snapfs import snapshots
from snapfs.control.commands.comparing import Comparing
from snapfs.control.commands.hot import Hot
from snapfs.control.commands.offline import OfflineEngine
from snapfs.control.commands.purging import Purging
from snapfs.control.socket.caller import Alone
from snapfs.errors import CorruptBlock, CorruptData, SnapfsError, SnapshotBusy
from snapfs.filesystem import Filesystem
from snapfs.interrupts import Want
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from tests.damage.cases import CASES
from tests.damage.planting import planted

#: Commands that compare states, or walk one, by what they are told.
WORK: dict[str, Callable[[Filesystem, OfflineEngine], Awaitable[Any]]] = {
    "diff": lambda fs, it: _with(Comparing, fs).diff(it.call, it.settle, "one", None, []),
    "versions": lambda fs, it: _with(Comparing, fs).versions(
        it.call, it.settle, "dir/sub/deep", deleted=False
    ),
    "deleted": lambda fs, it: _with(Comparing, fs).versions(
        it.call, it.settle, "many", deleted=True
    ),
    "restore plan": lambda fs, it: _with(Comparing, fs).restore_plan(it.call, it.settle, "one", []),
    "hot": lambda fs, it: _with(Hot, fs).hot(it.call, it.settle, "one", None),
    "purge": lambda fs, it: _with(Purging, fs).purge(it, ["many"], None, dry_run=True),
}

Command = TypeVar("Command", bound=Comparing)


def _with(command: type[Command], fs: Filesystem) -> Command:
    return command(fs, Alone(), snapshots.anyone)


async def compare(what: str, fs: Filesystem) -> None:
    await WORK[what](fs, OfflineEngine(fs))


async def test_a_contradiction_that_a_comparison_has_met_is_written_on() -> None:
    """What no checksum tells: it comes out of the steps themselves."""
    met = 0
    for case in CASES:
        p = planted()
        case.plant(p)
        if not p.is_written:
            p.commit()
        try:
            fs = Filesystem(open_volume(p.device))
        except SnapfsError:
            continue  # nobody drives it
        try:
            await compare("diff", fs)
        except CorruptData:
            pass
        except CorruptBlock as exc:
            met += 1
            assert "metadata is damaged" in (fs.volume.read_only_reason or ""), (case.plant, exc)
        except SnapfsError:
            pass
    assert met > 3


class Flawed:
    """Reading the ``at``-th set of blocks of a volume fails, by a checksum."""

    def __init__(self, volume: Volume, at: int, error: CorruptBlock) -> None:
        self.left = at
        self._read, self._error = volume.read_wants, error
        volume.read_wants = volume.read_wants_nowait = self.read  # type: ignore[method-assign] - a test's

    def read(self, wants: Iterable[Want]) -> Any:
        self.left -= 1
        if not self.left:
            raise self._error
        return self._read(wants)


@pytest.mark.parametrize("what", WORK)
async def test_a_block_that_only_a_comparison_reads_is_damaged_for_it_alone(what: str) -> None:
    """Data that are damaged are only their file's business."""
    for at in range(1, 1000):
        fs = Filesystem(open_volume(planted().device))
        flaw = Flawed(fs.volume, at, CorruptBlock("flawed"))
        try:
            await compare(what, fs)
        except CorruptBlock:
            assert "metadata is damaged (flawed)" in (fs.volume.read_only_reason or "")
        else:
            break
    assert at > 3, "nothing is read"
    assert flaw.left > 0, "damage is passed over in silence"
    fs = Filesystem(open_volume(planted().device))
    Flawed(fs.volume, at - 1, CorruptData("flawed"))
    with pytest.raises(CorruptData):
        await compare(what, fs)
    assert not fs.volume.read_only


async def test_what_was_written_over_is_taken_for_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers come first: whoever compares is told to try again, and nothing is wrong with the
    volume.
    """
    fs = Filesystem(open_volume(planted().device))

    def lost(*_: object) -> None:
        for reader in fs.volume.allocator.readers._open:
            reader.lost = True
        raise CorruptBlock("something else")

    monkeypatch.setattr(fs.volume, "read_wants_nowait", lost)
    with pytest.raises(SnapshotBusy, match="try again"):
        await compare("diff", fs)
    assert not fs.volume.read_only
