"""What is to be mounted: an image or a block device, or memory that is filled for the occasion.

``mem:SIZE`` is an empty volume; ``mem:`` with ``--load FILE`` has what is in an image, which stays
as it is. Both end with their daemon.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass

from snapfs.cli import exits
from snapfs.cli.arguments import size
from snapfs.cli.exits import CommandFailed
from snapfs.control.copies.memory import resolve
from snapfs.device.base import MEMORY_PREFIX, Device, is_memory, lasting_path


@dataclass(frozen=True)
class Source:
    """One of the three. ``given`` is how the user named it; ``size`` of memory that begins empty,
    ``load`` the image of other memory.
    """

    given: str
    in_memory: bool = False
    size: int = 0
    load: str | None = None

    @property
    def shown(self) -> str:
        """Where it is, for whoever asks later and elsewhere."""
        if self.in_memory:
            return self.given
        return lasting_path(self.given)

    @property
    def in_mountinfo(self) -> str:
        """What the kernel shows as the source of the mount: for readers in all directories."""
        return self.given if self.in_memory else os.path.abspath(self.given)

    def open(
        self, *, read_only: bool, interval: float | None, warn: Callable[[str], None]
    ) -> Device:
        """The device, with a volume on it if it is memory. A copy that is not complete is opened to
        be read.

        ``interval``: see ``open_image``. Raises errors of snapfs.
        """
        from snapfs.copying import open_image

        if not self.in_memory:
            return open_image(self.given, read_only=read_only, unfinished=True, interval=interval)
        return _loaded(self, self.load, warn) if self.load is not None else _empty(self, warn)


def parse(given: str, load: str | None) -> Source:
    """Read the word that stands for the image. Raises ``CommandFailed``."""
    given = resolve(given)  # a copy in memory is an image
    if not is_memory(given):
        if load is not None:
            raise CommandFailed(
                f"--load starts a volume in memory from an image: give 'mem:' instead of {given}",
                exits.MOUNT_USAGE,
            )
        return Source(given)
    wanted = given.removeprefix(MEMORY_PREFIX)
    if load is not None:
        if wanted:
            raise CommandFailed(
                f"{given}: with --load the volume has the size that it has in {load}: give 'mem:'",
                exits.MOUNT_USAGE,
            )
        return Source(given, in_memory=True, load=load)
    if not wanted:
        raise CommandFailed(
            "mem: needs a size, as in mem:2G, or an image to start from (--load FILE)",
            exits.MOUNT_USAGE,
        )
    try:
        return Source(given, in_memory=True, size=size(wanted))
    except argparse.ArgumentTypeError as exc:
        if wanted[:1].isalpha():
            raise CommandFailed(
                f"{given}: not a size, and no daemon has a copy of that name in memory",
                exits.MOUNT_USAGE,
            ) from exc
        raise CommandFailed(f"{given}: {exc}", exits.MOUNT_USAGE) from exc


def _empty(source: Source, warn: Callable[[str], None]) -> Device:
    from snapfs.device import RamDevice
    from snapfs.device.ram import page_size
    from snapfs.filesystem.format import format_volume

    _check_room(source, source.size, warn)
    device = RamDevice(source.given, source.size)
    try:
        format_volume(
            device, block_size=page_size(), clear=False, uid=os.geteuid(), gid=os.getegid()
        )
    except BaseException:
        device.close()
        raise
    return device


def _loaded(source: Source, load: str, warn: Callable[[str], None]) -> Device:
    """Memory with all that the image ``load`` has, which is locked while it is read, and known to
    be a volume.
    """
    from snapfs.copying import open_image
    from snapfs.device import RamDevice
    from snapfs.store.commit.recovery import open_volume

    image = open_image(load, read_only=True)
    try:
        length = open_volume(image, read_only=True).geometry.size
        _check_room(source, length, warn)
        device = RamDevice(source.given, length)
        try:
            device.fill_from(image)
        except BaseException:
            device.close()
            raise
    finally:
        image.close()
    return device


def _check_room(source: Source, wanted: int, warn: Callable[[str], None]) -> None:
    """Raises ``CommandFailed`` for more than this machine ever has. Less than that may turn out not
    to be there when it is written.
    """
    from snapfs.cli.output import size_text
    from snapfs.device import headroom

    whole, left = headroom.total(), headroom.available()
    if wanted > whole:
        raise CommandFailed(
            f"{source.given}: {size_text(wanted)} is more than all memory and swap "
            f"there is ({size_text(whole)}): choose a smaller size",
            exits.MOUNT_USAGE,
        )
    if wanted > left:
        warn(
            f"only {size_text(left)} of memory are free now: when they are used up, "
            "writing ends with 'no space left'"
        )
