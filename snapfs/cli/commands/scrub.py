"""``snapfs scrub``: read everything that a volume has, and verify every checksum, while it is
mounted or not.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from snapfs.cli import output
from snapfs.cli.arguments import Parser, add_json, add_target, size
from snapfs.cli.exits import DAMAGED, OK
from snapfs.cli.target import session


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    add_target(parser)
    parser.add_argument(
        "--rate",
        type=size,
        metavar="BYTES",
        help="read at most so much in a second, with K, M or G (default: no limit)",
    )
    add_json(parser)
    parser.epilog = (
        "Exit codes: 0 no damage, 4 damaged blocks were found (one line each), 1 error, 2 usage."
    )


def run(arguments: argparse.Namespace) -> int:
    """Scrub; findings are printed as they come."""
    found: list[dict[str, Any]] = []
    named = 0
    # Progress bars take over the terminal, and with it what is printed there; what goes elsewhere
    # must not go there.
    out = None if sys.stdout.isatty() else sys.stdout
    with (
        session(arguments.target, write=False, timeout=arguments.timeout, damaged=True) as volume,
        output.progress("Scrubbing") as progress,
    ):

        def told(event: dict[str, Any]) -> None:
            nonlocal named
            named += len(event["findings"])
            for one in event["findings"]:
                if arguments.json:
                    found.append(one)
                else:
                    output.line(f"{arguments.target}: {one['message']}", out=out, flush=True)
            if progress:
                progress(event["read"], event["total"])

        result = volume.call("scrub", told=told, rate=arguments.rate)
        mountpoint = volume.mountpoint
    if arguments.json:
        document = {
            "target": arguments.target,
            "mounted": mountpoint,
            "clean": not result["errors"],
            **result,
            "findings": found,
        }
        output.print_json(document)
    else:
        more = result["errors"] - named
        unnamed = f" ({more} of them not named)" if more else ""
        output.line(
            f"{arguments.target}: {_outcome(result['errors'])}{unnamed}, "
            f"{output.size_text(result['bytes_read'])} read"
        )
    return DAMAGED if result["errors"] else OK


def _outcome(errors: int) -> str:
    if not errors:
        return "clean"
    return "1 finding" if errors == 1 else f"{errors} findings"
