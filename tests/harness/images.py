"""Volumes that tests make, and what the checker says of them when a test ends.

Both are done in this process: starting Python for it takes twenty times as long. The commands for
it have tests of their own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from snapfs.errors import SnapfsError


def keep(image: Path, test: str) -> Path:
    """Move an image with findings out of pytest's temporary directory, which is removed."""
    named = os.environ.get("SNAPFS_KEEP")
    directory = Path(named) if named else Path(tempfile.gettempdir()) / "snapfs-kept"
    directory.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in test)
    kept = directory / f"{name}-{os.getpid()}-{image.name}"
    if image.is_block_device():
        subprocess.run(["cp", "--sparse=always", image, kept], check=True)
    else:
        shutil.move(image, kept)
    return kept


def findings(image: Path) -> list[str]:
    """What the checker finds in an unmounted image; or why it cannot be checked."""
    from snapfs.check import check_volume
    from snapfs.copying import open_image

    try:
        device = open_image(os.fspath(image), read_only=True)
        try:
            return [finding.message() for finding in check_volume(device)]
        finally:
            device.close()
    except (SnapfsError, OSError) as exc:
        return [f"it cannot be checked: {exc}"]


def explain(found: list[str], kept: Path) -> str:
    lines = "\n".join(f"  {finding}" for finding in found[:20])
    return f"{len(found)} findings, image kept as {kept}:\n{lines}"


def format_image(path: Path, size: str, *, block_size: int = 4096, label: str = "") -> None:
    """What ``snapfs mkfs`` does once it has read its arguments."""
    from snapfs.cli.arguments import size as bytes_of
    from snapfs.cli.commands import mkfs

    wanted = argparse.Namespace(
        image=os.fspath(path),
        size=bytes_of(size),
        block_size=block_size,
        label=label,
        force=False,
    )
    assert mkfs.run(wanted) == 0


@dataclass
class Images:
    directory: Path
    test: str
    made: list[Path] = field(default_factory=list)
    damaged: set[Path] = field(default_factory=set)

    def make(
        self,
        size: str = "64M",
        *,
        block_size: int = 4096,
        label: str = "",
        name: str = "volume.img",
    ) -> Path:
        """A new volume in a file that no other test has."""
        path = self.directory / name
        number = 1
        while path.exists():
            number += 1
            path = self.directory / f"{Path(name).stem}-{number}{Path(name).suffix}"
        format_image(path, size, block_size=block_size, label=label)
        return self.watch(path)

    def watch(self, path: Path) -> Path:
        """Check this one, too, when the test ends."""
        if path not in self.made:
            self.made.append(path)
        return path

    def expect_damage(self, path: Path) -> None:
        self.damaged.add(path)

    def check(self) -> None:
        trouble = []
        for image in self.made:
            if image in self.damaged or not image.exists():
                continue
            found = findings(image)
            if found:
                trouble.append(explain(found, keep(image, self.test)))
        if trouble:
            pytest.fail("\n".join(trouble))
