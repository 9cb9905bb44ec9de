"""``snapfs check`` and ``fsck.snapfs``: check a volume that is not mounted. Exit codes as of fsck(8)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json
from snapfs.cli.exits import CHECK_UNCORRECTED, CHECK_USAGE, OK, CommandFailed


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument("image", metavar="IMAGE")
    add_json(parser)


def run_helper(words: Sequence[str]) -> int:
    """``fsck.snapfs [options] DEVICE``, as fsck(8) calls it: its options for repairing find nothing to do here."""
    images = [word for word in words if not word.startswith("-")]
    options = "".join(word[1:] for word in words if word.startswith("-"))
    # -C may have a file descriptor of its own after it.
    if "-C" in words and (place := words.index("-C") + 1) < len(words) and words[place].isdigit():
        images.remove(words[place])
        options = options.replace("C", "")
    unknown = re.sub(r"[aAfMnprRTVvytlC0-9]", "", options)
    if len(images) != 1 or unknown:
        raise CommandFailed("usage: fsck.snapfs [-a] [-f] [-n] [-p] [-y] DEVICE", CHECK_USAGE)
    return run(argparse.Namespace(image=images[0], json=False))


def run(arguments: argparse.Namespace) -> int:
    """Check, print the findings, one line each."""
    from snapfs.check import check_volume
    from snapfs.device import open_device

    device = open_device(arguments.image, read_only=True)
    try:
        with output.progress("Checking") as progress:
            findings = check_volume(device, progress)
    finally:
        device.close()
    if arguments.json:
        document = [
            {
                "invariant": finding.invariant,
                "rule": finding.rule,
                "place": finding.place,
                "severity": str(finding.severity),
                "message": finding.message(),
            }
            for finding in findings
        ]
        output.print_json({"image": arguments.image, "clean": not findings, "findings": document})
    else:
        for finding in findings:
            print(f"{arguments.image}: {finding.message()}")
        print(f"{arguments.image}: {f'{len(findings)} findings' if findings else 'clean'}")
    return CHECK_UNCORRECTED if findings else OK
