"""``snapfs install-helpers``: links by which mount(8), umount(8), mkfs(8)
and fsck(8) find snapfs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import Final

from snapfs.cli import output
from snapfs.cli.arguments import Parser
from snapfs.cli.exits import OK, CommandFailed

#: mount(8) asks for ``mount.fuse.snapfs`` when it knows the type from /proc/mounts, for
#: ``mount.snapfs`` when from fstab.
NAMES: Final = (
    "mount.snapfs",
    "mount.fuse.snapfs",
    "umount.snapfs",
    "umount.fuse.snapfs",
    "mkfs.snapfs",
    "fsck.snapfs",
)


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--directory",
        default="/sbin",
        help="where to put the links (default /sbin, where mount(8) looks)",
    )
    parser.add_argument("--remove", action="store_true", help="remove them")


def run(arguments: argparse.Namespace) -> int:
    """Link; what is not a link of ours is left alone."""
    program = "" if arguments.remove else _program()
    for name in NAMES:
        place = os.path.join(arguments.directory, name)
        try:
            if os.path.lexists(place):
                if not (os.path.islink(place) and os.path.basename(os.readlink(place)) == "snapfs"):
                    raise CommandFailed(f"{place}: is not a link to snapfs: move it away first")
                os.unlink(place)
            if not arguments.remove:
                os.symlink(program, place)
                output.line(f"{place} -> {program}")
        except PermissionError:
            raise CommandFailed(
                f"{arguments.directory}: cannot be written: run this as root"
            ) from None
        except FileNotFoundError:
            raise CommandFailed(f"{arguments.directory}: no such directory") from None
    return OK


def _program() -> str:
    """The installed script: beside the interpreter of a virtual
    environment, or the one that runs.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "snapfs")
    for place in (sys.argv[0], beside, shutil.which("snapfs")):
        if place and os.path.basename(place) == "snapfs" and os.access(place, os.X_OK):
            return os.path.abspath(place)
    raise CommandFailed("the snapfs script is not installed: install the package first")
