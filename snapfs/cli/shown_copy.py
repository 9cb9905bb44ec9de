"""A copy as commands show it: its progress, what has become of it, all that is known of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from snapfs.cli import output
from snapfs.printable import quoted

Document = dict[str, Any]


@contextlib.contextmanager
def progress() -> Iterator[Callable[[Document], None]]:
    """A progress bar for what a copy tells; on a terminal."""
    with output.progress("Copying", of_bytes=True) as show:

        def told(event: Document) -> None:
            if show and event["total"] is not None:
                show(event["copied"], event["total"])

        yield told


def print_document(result: Document, mountpoint: str | None) -> None:
    """Print a JSON document of a copy whose source is mounted at ``mountpoint``."""
    since = result.get("since_ns")
    document = {name: value for name, value in result.items() if name != "since_ns"}
    output.print_json(
        {
            "mounted": mountpoint,
            **document,
            "since": None if since is None else output.time_json(since),
        }
    )


def facts(result: Document) -> list[tuple[str, str]]:
    """What is known of a copy: a heading and its text for each line."""
    found = [
        ("state", result["state"]),
        ("source", result["source"]),
        ("destination", result["destination"]),
    ]
    if result["total"] is not None:
        share = 100 * result["copied"] / result["total"] if result["total"] else 100
        found.append(
            (
                "copied",
                (
                    f"{output.size_text(result['copied'])} of "
                    f"{output.size_text(result['total'])} ({share:.1f} %)"
                ),
            )
        )
    if result["since_ns"] is not None:
        found.append(("begun", output.time_text(result["since_ns"])))
    if result["rate"] is not None:
        found.append(("rate limit", f"{output.size_text(result['rate'])}/s"))
    if result["map"] is not None:
        found.append(("map", result["map"]))
    if result["on_error"] is not None:
        found.append(("fails first", "the copy" if result["on_error"] == "copy" else "writing"))
    if result["reason"]:
        found.append(("reason", result["reason"]))
    return found


def line(result: Document, *, begun: bool) -> str:
    """What has become of a copy; ``begun``: it was made just now."""
    state, where = result["state"], result["destination"]
    if state == "complete":
        return f"{where}: the copy is complete, {output.size_text(result['copied'])}"
    if state == "cancelled":
        if result.get("moved"):
            return (
                f"{where}: the copy is cancelled; its target has been moved from there, and "
                "is of no use where it is now"
            )
        return f"{where}: the copy is cancelled" + (
            ", and gone" if result.get("removed") else "; what is there is of no use"
        )
    if state == "paused":
        return f"{where}: the copy is paused; 'snapfs copy resume {quoted(where)}' goes on"
    if state == "blocked":
        return f"{where}: the copy cannot go on, and is tried again: {result['reason']}"
    moment = "is the volume as it was just now, and" if begun else "the copy"
    if result["rate"] == 0:
        return (
            f"{where}: {moment} is given only what is overwritten; 'snapfs copy resume "
            f"{quoted(where)} --rate max' fills it"
        )
    if begun:
        return (
            f"{where}: {moment} is filled behind; 'snapfs copy status {quoted(where)}' "
            "tells how far it is"
        )
    return f"{where}: {moment} goes on; 'snapfs copy status {quoted(where)}' tells how far it is"
