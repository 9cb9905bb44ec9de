"""``snapfs check`` and ``fsck.snapfs``: check a volume that is not mounted, and repair it. Exit
codes as of fsck(8).
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json
from snapfs.cli.exits import CHECK_CORRECTED, CHECK_UNCORRECTED, CHECK_USAGE, OK, CommandFailed
from snapfs.printable import quoted

if TYPE_CHECKING:
    from snapfs.check import Finding
    from snapfs.device import Device


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("image", metavar="IMAGE")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--repair",
        action="store_true",
        help="mend what is found; what is overwritten is kept in an undo file",
    )
    what.add_argument("--undo", metavar="FILE", help="take a repair back, from its undo file")
    parser.add_argument(
        "--undo-file",
        metavar="FILE",
        help="where --repair keeps what it overwrites (default: beside the image)",
    )
    add_json(parser)


def run_helper(words: Sequence[str]) -> int:
    """``fsck.snapfs [options] DEVICE``, as fsck(8) calls it: ``-a``, ``-p`` and ``-y`` repair, all
    else looks only.
    """
    images = [word for word in words if not word.startswith("-")]
    options = "".join(word[1:] for word in words if word.startswith("-"))
    # -C may have a file descriptor of its own after it.
    if "-C" in words and (place := words.index("-C") + 1) < len(words) and words[place].isdigit():
        images.remove(words[place])
        options = options.replace("C", "")
    unknown = re.sub(r"[aAfMnprRTVvytlC0-9]", "", options)
    if len(images) != 1 or unknown:
        raise CommandFailed("usage: fsck.snapfs [-a] [-f] [-n] [-p] [-y] DEVICE", CHECK_USAGE)
    repair = bool(re.search("[apy]", options)) and "n" not in options
    return run(
        argparse.Namespace(image=images[0], json=False, repair=repair, undo=None, undo_file=None)
    )


def run(arguments: argparse.Namespace) -> int:
    """Check, print the findings, one line each; repair if that is wanted."""
    from snapfs.check import check_volume
    from snapfs.check.opening import logged_changes
    from snapfs.control.copies.memory import resolve
    from snapfs.copying import open_image

    if arguments.undo_file is not None and not arguments.repair:
        raise CommandFailed("--undo-file goes with --repair", CHECK_USAGE)
    device = open_image(
        resolve(arguments.image), read_only=not (arguments.repair or arguments.undo)
    )
    try:
        if arguments.undo:
            return _undo(device, arguments)
        if arguments.repair:
            return _repair(device, arguments)
        with output.progress("Checking") as progress:
            findings = check_volume(device, progress)
        logged = logged_changes(device)
    finally:
        device.close()
    if arguments.json:
        document = {
            "image": arguments.image,
            "clean": not findings,
            "findings": _document(findings),
            "logged_changes": logged,
        }
        output.print_json(document)
    else:
        _print(arguments.image, findings)
        if logged:
            changes = "change that was" if logged == 1 else "changes that were"
            output.line(
                f"{arguments.image}: its log has {logged} {changes} synced since the "
                "last commit: the next mount takes them over"
            )
        output.line(f"{arguments.image}: {_count(len(findings))}")
    return CHECK_UNCORRECTED if findings else OK


def _repair(device: Device, arguments: argparse.Namespace) -> int:
    from snapfs.check.repair import UndoDevice, repair_volume

    image = arguments.image
    keeping = UndoDevice(device, arguments.undo_file or default_undo_file(image, device))
    try:
        with output.progress("Repairing") as progress:
            result = repair_volume(keeping, progress)
    finally:
        undo_file = keeping.undo_path if keeping.wrote else None
        keeping.close()
    if arguments.json:
        output.print_json(
            {
                "image": image,
                "clean": not result.after,
                "findings": _document(result.before),
                "actions": result.actions,
                "left": _document(result.after),
                "undo_file": undo_file,
            }
        )
    else:
        _print(image, result.before)
        for action in result.actions:
            output.line(f"{image}: repair: {action}")
        if result.after:
            output.line(f"{image}: not mended:")
            _print(image, result.after)
        outcome = (
            f", {len(result.after)} are left"
            if result.after
            else ", mended"
            if result.before
            else ""
        )
        output.line(f"{image}: {_count(len(result.before))}{outcome}")
        if undo_file:
            output.line(
                f"{image}: what was overwritten is kept: 'snapfs check --undo "
                f"{quoted(undo_file)} {quoted(image)}' takes the repair back"
            )
    if result.after:
        return CHECK_UNCORRECTED
    return CHECK_CORRECTED if result.before else OK


def _undo(device: Device, arguments: argparse.Namespace) -> int:
    from snapfs.check.repair import undo

    writes = undo(device, arguments.undo)
    if arguments.json:
        output.print_json({"image": arguments.image, "writes": writes})
    else:
        output.line(f"{arguments.image}: the repair is taken back ({writes} writes)")
    return OK


def default_undo_file(image: str, device: Device) -> str:
    """Beside an image file; for a block device, where what is large and must last is kept."""
    from snapfs.device import ImageDevice

    name = f".undo-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    if isinstance(device, ImageDevice) and stat.S_ISBLK(device.status().st_mode):
        return f"/var/tmp/snapfs-{os.path.basename(image)}{name}"  # noqa: S108 - made by O_EXCL, readable by its owner only
    return image + name


def _document(findings: list[Finding]) -> list[dict[str, str]]:
    return [
        {
            "invariant": finding.invariant,
            "rule": finding.rule,
            "place": finding.place,
            "severity": str(finding.severity),
            "message": finding.message(),
        }
        for finding in findings
    ]


def _print(image: str, findings: list[Finding]) -> None:
    for finding in findings:
        output.line(f"{image}: {finding.message()}")


def _count(number: int) -> str:
    return f"{number} finding{'s' if number > 1 else ''}" if number else "clean"
