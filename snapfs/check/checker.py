"""The whole check: open read-only, walk the views and tables, compare with bitmaps and records."""

from __future__ import annotations

from collections.abc import Callable

from snapfs.check.findings import Finding, Findings
from snapfs.check.walk.compare import BitmapComparison
from snapfs.check.walk.reach import Reach
from snapfs.check.walk.tables import (
    check_copy,
    check_superblocks,
    check_tables,
)
from snapfs.check.walk.trees import Walker
from snapfs.check.walk.views import ViewChecker
from snapfs.device.base import Device
from snapfs.errors import CorruptBlock
from snapfs.filesystem import Filesystem
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.superblocks import newest_superblock


def check_volume(
    device: Device, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Check the volume on a device that nobody else changes; ``progress(done, total)`` is called
    now and then.

    Raises ``NotAVolume``, ``UnsupportedVersion``, ``Truncated``, ``DeviceError`` when there is
    nothing to check, and ``CorruptBlock`` when no superblock is intact.
    """
    findings = Findings()
    newest_superblock(device)
    try:
        volume = open_volume(device, read_only=True)
        fs = Filesystem(volume, as_sealed=True)
    except CorruptBlock as exc:
        findings.add("format", "unreadable", "volume", str(exc))
        return findings.found
    reach = Reach(volume.geometry, findings, volume.epoch)
    walker = Walker(volume, reach, findings)
    check_superblocks(volume, findings)
    check_tables(volume, walker, findings)
    ViewChecker(fs, walker, findings, progress or (lambda _done, _total: None)).run()
    check_copy(volume, reach, findings)
    BitmapComparison(volume, reach, findings).run()
    return findings.found
