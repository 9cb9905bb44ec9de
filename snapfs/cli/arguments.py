"""How arguments are read: a parser that fails in one line, and sizes."""

from __future__ import annotations

import argparse
import math
from typing import Final, NoReturn

from snapfs.cli.exits import USAGE, CommandFailed

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}

#: Longest time to wait, in seconds: 30 years.
_LONGEST: Final = 1e9


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line; the exit code is the command's."""

    usage_code: int = USAGE

    def error(self, message: str) -> NoReturn:
        """Raise ``CommandFailed`` instead of printing the usage."""
        raise CommandFailed(f"{message} (see: {self.prog} --help)", self.usage_code)


def size(text: str) -> int:
    """Bytes from ``4096``, ``64K``, ``1.5G``, ``2TiB``: powers of 1024."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        value = float(number.removesuffix(unit)) * _UNITS[unit]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a size: give bytes, or a number with K, M, G or T"
        ) from None
    if not 0 < value < 1 << 63 or value != int(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size that a volume can have")
    return int(value)


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``, for everything that reports."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document instead of text"
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """TARGET, as all commands understand it."""
    parser.add_argument(
        "target", metavar="TARGET", help="an image, a mount point, or any path inside a mount"
    )
    add_timeout(parser)


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """``--timeout``, for everything that may ask a daemon."""
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="fail when the daemon of a mounted volume has said nothing for so long "
        "(default: wait for ever; what is waited for is said)",
    )


def seconds(text: str) -> float:
    """A time to wait, in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a time to wait: give seconds, as in 10 or 0.5"
        )
    return value


def add_discard(parser: argparse.ArgumentParser) -> None:
    """``--discard``, for what frees much space of an image that is not mounted."""
    parser.add_argument(
        "--discard",
        action="store_true",
        help="give the freed space of an image that is not mounted back to the host (see "
        "mount -o discard)",
    )
