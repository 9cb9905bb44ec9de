"""The ratios as a picture: SVG, written by hand, so that nothing is needed to draw it and any
browser shows it.
"""

from __future__ import annotations

import html
import math
from typing import Any

from goals import goal, mark

#: Of each target; readable beside one another also without colours.
COLOURS = {
    "empty": "#4477aa",
    "bindfs": "#66ccee",
    "zfs-fuse": "#228833",
    "s3ql": "#ee8866",
    "btrfs": "#ccbb44",
    "host": "#aa3377",
}
MISSED = "#cc3311"

LABEL, PLOT, BAR, GAP, TOP = 230, 620, 11, 12, 64

#: The axis: ratios from a hundredth to a hundred.
DECADES = (-2, 2)


def of_ratios(found: dict[str, dict[str, float]], about: dict[str, Any]) -> str:
    """A bar for each row and target, on a logarithmic axis, from 1 (as fast) to the right (faster);
    a line where the goal is.
    """
    if not found:
        return _document(TOP, ["<text x='10' y='30'>no rows with targets were measured</text>"])
    names = [name for name in COLOURS if name in next(iter(found.values()))]
    parts: list[str] = []
    y = TOP
    for row, rates in found.items():
        parts.append(
            f"<text x='{LABEL - 8}' y='{y + BAR * len(names) / 2 + 4:.0f}' "
            f"text-anchor='end'>{html.escape(row)}</text>"
        )
        for name in names:
            parts += _bar(y, row, rates["snapfs"] / rates[name], name)
            y += BAR
        y += GAP
    return _document(y, [*_frame(y, names, about), *parts])


def x_of(ratio: float) -> float:
    low, high = DECADES
    place = min(max(math.log10(ratio), low), high)
    return LABEL + (place - low) / (high - low) * PLOT


def _bar(y: int, row: str, ratio: float, name: str) -> list[str]:
    wanted = goal(row, name)
    left, right = sorted((x_of(1), x_of(ratio)))
    sign = mark(row, ratio, wanted)
    said, colour = f"{ratio:.2f} {sign}", MISSED if sign == "*" else "#000"
    beside = f"x='{right + 3:.1f}'" if ratio >= 1 else f"x='{left - 3:.1f}' text-anchor='end'"
    parts = [
        (
            f"<rect x='{left:.1f}' y='{y}' width='{max(right - left, 1):.1f}' "
            f"height='{BAR - 2}' fill='{COLOURS[name]}'/>"
        ),
        f"<text {beside} y='{y + 8}' font-size='9' fill='{colour}'>{said}</text>",
    ]
    if wanted is not None:
        parts.append(
            f"<line x1='{x_of(wanted):.1f}' x2='{x_of(wanted):.1f}' y1='{y - 1}' "
            f"y2='{y + BAR - 1}' stroke='{MISSED}'/>"
        )
    return parts


def _frame(bottom: int, names: list[str], about: dict[str, Any]) -> list[str]:
    words = (
        f"snapfs, times as fast as others: {about['processors']} processors, Linux "
        f"{about['kernel']}"
    )
    parts = [
        (
            f"<text x='10' y='20' font-size='14'>{html.escape(words)}; red line: the goal; "
            "*: missed</text>"
        )
    ]
    x = 10
    for name in names:
        said = f"{about['host']} below" if name == "host" else name
        parts.append(
            f"<rect x='{x}' y='30' width='10' height='10' fill='{COLOURS[name]}'/><text "
            f"x='{x + 14}' y='39'>{said}</text>"
        )
        x += 34 + 7 * len(said)
    for decade in range(DECADES[0], DECADES[1] + 1):
        place = x_of(10.0**decade)
        colour = "#ccc" if decade else "#000"
        parts.append(
            f"<line x1='{place:.1f}' x2='{place:.1f}' y1='{TOP - 6}' y2='{bottom}' "
            f"stroke='{colour}'/>"
        )
        parts.append(
            f"<text x='{place:.1f}' y='{TOP - 9}' text-anchor='middle' "
            f"font-size='10'>{10.0**decade:g}</text>"
        )
    return parts


def _document(height: int, parts: list[str]) -> str:
    width = LABEL + PLOT + 50
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height + 10}' "
        "font-family='sans-serif' font-size='11'>"
    )
    return "\n".join(
        (head, f"<rect width='{width}' height='{height + 10}' fill='#fff'/>", *parts, "</svg>", "")
    )
