"""The results as tables, and in words what misses its goal."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from goals import NOISE, Missed, goal, mark
from rich import box
from rich.console import Console
from rich.table import Table
from rows import Value
from snapshot_rows import Values, ratio, ratios
from targets import TARGETS


def show(
    found: dict[str, dict[str, float]],
    units: dict[str, str],
    results: dict[str, dict[str, list[Value]]],
    snapshots: Values,
    resources: dict[str, float],
    below: Sequence[Missed],
    about: dict[str, Any],
    load: list[float],
) -> None:
    """Print all of it. ``found``: row -> target -> median."""
    # Into a file or a pipe it is as wide as it needs to be.
    width = max(shutil.get_terminal_size().columns, 100) if sys.stdout.isatty() else 200
    console = Console(width=width, highlight=False)
    if found:
        console.print(_targets(found, units, about))
        console.print(_requests(results))
    if snapshots:
        console.print(_snapshots(snapshots))
    for row, value in resources.items():
        console.print(f"{row}: {value:,.2f}")
    for name, why in about["absent"].items():
        console.print(f"left out: {name}: {why}")
    console.print(
        f"{about['processors']} processors, Linux {about['kernel']}, Python {about['python']}; "
        f"load {load[0]:.1f} before, {load[1]:.1f} after; host: {about['host']}"
    )
    for sign, what in (
        ("*", "Below their goals"),
        ("~", f"Below their goals by less than {NOISE:.0%}, which is noise"),
    ):
        marked = [one for one in below if one.mark == sign]
        if marked:
            console.print(f"\n{what} ({sign}):")
        for one in marked:
            console.print(f"  {one}")
    if not below:
        console.print("\nNo row is below its goal.")


def _new(title: str, first: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _targets(
    found: dict[str, dict[str, float]], units: dict[str, str], about: dict[str, Any]
) -> Table:
    names = list(next(iter(found.values())))
    names.sort(key=list(TARGETS).index)
    heads = {"host": f"{about['host']} below"}
    columns = [
        word
        for name in names
        for word in (
            [heads.get(name, name)] if name == "snapfs" else [heads.get(name, name), "ratio"]
        )
    ]
    table = _new("Medians; ratio: snapfs to the target on its left", "row", "unit", *columns)
    for row, rates in found.items():
        cells = []
        for name in names:
            cells.append(_number(rates[name]))
            if name != "snapfs":
                cells.append(_ratio(row, rates["snapfs"] / rates[name], goal(row, name)))
        table.add_row(row, units[row], *cells)
    return table


def _requests(results: dict[str, dict[str, list[Value]]]) -> Table:
    table = _new("Requests that the daemon of snapfs answered, per operation or MiB", "row", "all")
    table.add_column("by kind", no_wrap=True)
    for row, by in results.items():
        kinds = {kind for one in by["snapfs"] for kind in one.requests}
        found = {
            kind: statistics.median(one.requests.get(kind, 0) for one in by["snapfs"])
            for kind in kinds
        }
        words = (
            f"{kind} {number:.2f}"
            for kind, number in sorted(found.items(), key=lambda one: -one[1])
            if number >= 0.005
        )
        table.add_row(row, f"{sum(found.values()):.2f}", ", ".join(words))
    return table


def _snapshots(snapshots: Values) -> Table:
    table = _new(
        "Snapshots; per second",
        "row",
        "small",
        "without",
        "ratio",
        "large",
        "without",
        "ratio",
        "large to small",
    )
    for row, values in snapshots.items():
        medians = {column: _number(statistics.median(rates)) for column, rates in values.items()}
        found = [_ratio(row, *one) for one in ratios(values).values()]
        if len(found) == 1:
            table.add_row(row, medians["small"], "", "", medians["large"], "", "", found[0])
        else:
            cells = [
                medians["small"],
                medians["small, without"],
                found[0],
                medians["large"],
                medians["large, without"],
                found[1],
            ]
            table.add_row(row, *cells, _ratio(row, ratio(values, "large", "small"), None))
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _ratio(row: str, found: float, wanted: float | None) -> str:
    sign = mark(row, found, wanted)
    return f"{found:.2f}" + (f"[red]{sign}[/]" if sign == "*" else sign or " ")
