"""What commands print: tables and facts for people, plain aligned text for pipes, JSON for programs.

On a terminal tables and progress are drawn by rich, which is loaded only then.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

#: Called with what is done and how much there is to do (None: nobody knows), in any unit.
Progress = Callable[[int, int | None], None]


def print_json(value: Any) -> None:
    """One document. ASCII, so that a name in any encoding survives any terminal."""
    print(json.dumps(value, indent=2, ensure_ascii=True))


def printable(text: str) -> str:
    """Text from a volume, without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns with headings; in a pipe aligned by spaces."""
    rows = [tuple(map(printable, row)) for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    lines = [tuple(column.upper() for column in columns), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """``name: value`` lines, values aligned."""
    width = max((len(name) for name, _ in facts), default=0) + 1
    for name, value in facts:
        print(f"{name + ':':<{width}} {printable(value)}")


@contextlib.contextmanager
def progress(title: str, *, of_bytes: bool = False) -> Iterator[Progress | None]:
    """A bar on standard error when that is a terminal; else None: long work is silent in a pipe. ``of_bytes``: with the rate."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = [*Bars.get_default_columns()]
    if of_bytes:
        columns[-1:] = [DownloadColumn(binary_units=True), TransferSpeedColumn(), columns[-1]]
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def size_text(count: int) -> str:
    """``1.5 GiB``"""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def time_text(nanoseconds: int) -> str:
    """A time in UTC, as snapshots are named by default but with a space, to the second. One that no calendar has as ``@SECONDS``."""
    try:
        return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"@{nanoseconds // 1_000_000_000}"


def time_json(nanoseconds: int) -> str:
    """A time in UTC with all its digits, ISO 8601. One that no calendar has as ``@SECONDS``."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC).strftime('%Y-%m-%dT%H:%M:%S')}.{rest:09d}Z"
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}.{rest:09d}"


def shown_json(one: dict[str, Any]) -> dict[str, Any]:
    """What a state shows under a path (``control.comparing``), for programs: the mode in octal, times as text."""
    document = {name: value for name, value in one.items() if name != "mtime_ns"}
    return {**document, "mode": f"{one['mode']:04o}", "mtime": time_json(one["mtime_ns"])}


def plain(text: str) -> str:
    """Text that does nothing to a terminal: what cannot be printed is written as Python would."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
