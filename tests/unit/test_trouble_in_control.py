"""What happens beside a command while it waits: the daemon goes on, no copy is wrong, and nothing
is left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from snapfs import snapshots
from snapfs.control.commands.offline import OfflineEngine
from snapfs.control.commands.purging import Purging
from snapfs.control.copies.apart import Here
from snapfs.control.copies.copying import Copying
from snapfs.control.socket import listening
from snapfs.control.socket.caller import Alone
from snapfs.control.socket.protocol import ControlError
from snapfs.copying import CopyJob, Wishes
from snapfs.copying.map_file import make_map
from snapfs.copying.target import prepare
from snapfs.device import open_device
from snapfs.errors import CopyError, NotFound
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

T = TypeVar("T")


def test_a_daemon_with_too_many_open_files_ends_for_want_of_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socket", none)
    for attempt in (
        lambda: listening.at_path(str(tmp_path / "a.sock")),
        lambda: listening.by_name("a"),
    ):
        with pytest.raises(ControlError, match="Too many open files"):
            attempt()


async def test_a_copy_goes_on_of_what_was_changed_while_it_was_opened(tmp_path: Path) -> None:
    """Its source does not know of it: what a daemon writes before the copy stands before its device
    is in no copy.
    """
    image, path = str(tmp_path / "source"), str(tmp_path / "target")
    (tmp_path / "source").write_bytes(b"")
    os.truncate(image, 8 << 20)
    with contextlib.closing(open_device(image)) as device:
        format_volume(device)
    with contextlib.closing(open_device(image, read_only=True)) as device:
        volume = open_volume(device, read_only=True)
        target = prepare(path, device, volume.geometry.size, force=False)
        job = CopyJob.begin(volume, target, Wishes(), registered=False, source_path=image, owner=0)
        job.copy_initial_part([])
        job.map_file = make_map(path + ".copymap", job.copy.map.size, force=False)
        job.put_map()
        job.set_up()
        job.close()
    with contextlib.closing(open_device(image)) as device:
        fs = Filesystem(open_volume(device))

        class Apart(Here):
            """Meanwhile somebody writes."""

            async def run(
                self,
                work: Callable[[], T],
                *,
                over: Callable[[], bool],
                undo: Callable[[T], object] | None = None,
            ) -> T:
                result = await super().run(work, over=over, undo=undo)
                fs.volume.device, before = device, fs.volume.device
                drive(
                    fs.volume,
                    fs.make,
                    fs.base,
                    ROOT_INO,
                    os.urandom(8).hex().encode(),
                    stat.S_IFREG | 0o644,
                    0,
                    0,
                )
                commit(fs.volume)
                fs.volume.device = before
                return result

        copying = Copying(OfflineEngine(fs), fs, image, mount_device=1)
        copying.apart = Apart()
        with pytest.raises(CopyError, match="is being changed"):
            await copying.resume(Alone(), path, rate=None, owner=0)
        assert copying.job is None
        assert fs.volume.device is device


async def test_a_snapshot_that_is_renamed_while_others_are_looked_at_keeps_what_is_purged() -> None:
    """What shall be gone from all snapshots is gone from all, whatever their names are by then."""
    device = SparseDevice(32 << 20)
    format_volume(device)
    fs = Filesystem(open_volume(device))
    engine = OfflineEngine(fs)
    drive(fs.volume, fs.make, fs.base, ROOT_INO, b"secret", stat.S_IFREG | 0o644, 0, 0)
    commit(fs.volume)
    for name in ("a", "b"):
        await engine.create_snapshot(name)

    class Renaming(OfflineEngine):
        """Meanwhile somebody renames."""

        async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            result = await super().call(function, *args, **kwargs)
            if function == snapshots.find_places and snapshots.all(fs)[1].name == "b":
                await engine.rename_snapshot("b", "c")
            return result

    result = await Purging(fs, Alone(), snapshots.anyone).purge(
        Renaming(fs), ["secret"], None, dry_run=False
    )
    assert result["snapshots"] == 2
    for one in snapshots.all(fs):
        with pytest.raises(NotFound):
            drive(fs.volume, fs.lookup, fs.view(one.id), ROOT_INO, b"secret")
