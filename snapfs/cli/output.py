"""What commands print: tables and facts for people, plain aligned text for pipes, JSON for
programs. Nothing else prints.

On a terminal tables and progress are drawn by rich, which is loaded only then. All text goes
through ``printable``.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from snapfs.printable import printable

#: Between two columns of a table on a terminal, in cells: the padding of rich.
_GAP: Final = 2

#: Called with what is done and how much there is to do (None: nobody knows), in any unit.
Progress = Callable[[int, int | None], None]


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One document. ASCII, so that a name in any encoding survives any terminal; without ``indent``
    on one line.
    """
    print(json.dumps(value, indent=indent, ensure_ascii=True))


def line(text: str = "", *, out: TextIO | None = None, flush: bool = False) -> None:
    """One line, whatever the text holds, to standard output or to ``out``."""
    out = out or sys.stdout
    print(printable(text, out.encoding), file=out, flush=flush)


def ask(question: str) -> str:
    """Ask on standard error; what is answered, without the end of the line."""
    print(printable(question, sys.stderr.encoding), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, whole: Collection[str] = ()
) -> None:
    """Columns with headings; in a pipe aligned by spaces. On a terminal what is too wide goes on in
    the next line, between words.

    What is in the columns of ``whole``, names that are to be copied, stays in one line, however
    long it is.
    """
    rows = [tuple(printable(cell, sys.stdout.encoding) for cell in row) for row in rows]
    if sys.stdout.isatty():
        _draw_table(columns, rows, whole)
        return
    lines = [tuple(column.upper() for column in columns), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for cells in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        )


def _draw_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Collection[str]
) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    console = Console()
    widest, narrowest = [], []
    for place, column in enumerate(columns):
        cells = [column, *(row[place] for row in rows)]
        widest.append(max(map(cell_len, cells)))
        words = cells if column in whole else [word for cell in cells for word in cell.split()]
        narrowest.append(max(map(cell_len, words)))
    widths = fitting(widest, narrowest, console.width - _GAP * (len(columns) - 1))
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, width=width, no_wrap=column in whole, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    # Wider than the terminal if need be: that breaks a line where it ends, and copies it as one.
    console.width = max(console.width, sum(widths) + _GAP * (len(columns) - 1))
    console.print(table)


def fitting(widest: Sequence[int], narrowest: Sequence[int], room: int) -> list[int]:
    """Widths of columns that take up ``room`` at most, if they can: the widest ones give way, none
    below its narrowest.
    """
    widths = list(widest)
    while sum(widths) > room:
        width, place = max(
            (width if width > narrowest[place] else 0, place) for place, width in enumerate(widths)
        )
        if not width:
            break
        widths[place] -= 1
    return widths


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """``name: value`` lines, values aligned."""
    width = max((len(name) for name, _ in facts), default=0) + 1
    for name, value in facts:
        line(f"{name + ':':<{width}} {value}")


@contextlib.contextmanager
def progress(title: str, *, of_bytes: bool = False) -> Iterator[Progress | None]:
    """A bar on standard error when that is a terminal; else None: long work is silent in a pipe.
    ``of_bytes``: with the rate.
    """
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
    """A time in UTC, as snapshots are named by default but with a space, to the second. One that no
    calendar has as ``@SECONDS``.
    """
    try:
        return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).strftime(
            "%Y-%m-%d %H:%M:%S UTC"
        )
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
    """What a state shows under a path (``control.commands.comparing``), for programs: the mode in
    octal, times as text.
    """
    document = {name: value for name, value in one.items() if name != "mtime_ns"}
    return {**document, "mode": f"{one['mode']:04o}", "mtime": time_json(one["mtime_ns"])}
