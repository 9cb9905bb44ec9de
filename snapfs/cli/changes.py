"""Differences between two states, as commands get them (``control.commands.comparing``) and print
them: for ``diff``, and for dry runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from snapfs.cli import output
from snapfs.cli.paths import all_in_volume
from snapfs.cli.target import CODING, Session

#: What has happened, in one letter; what differs of what both states have follows: M for data, m
#: for attributes.
LETTERS: Final = {"added": "A", "removed": "D", "changed": "", "retyped": "T", "renamed": "R"}

Change = dict[str, Any]


def ask(
    volume: Session,
    command: str,
    paths: Sequence[str],
    found: Callable[[Change], None],
    progress: output.Progress | None,
    **more: object,
) -> Change:
    """Ask for a comparison, of what lies at ``paths`` of the command line; ``found`` is called for
    each change. Returns the answer.
    """

    def told(event: dict[str, Any]) -> None:
        for change in event["found"]:
            found(change)
        if progress:
            progress(event["compared"], None)

    return volume.call(command, told=told, paths=all_in_volume(paths, volume), **more)


def path(change: Change) -> str:
    """The path that a change is listed under: the new one, if there is one."""
    return str(change["old_path"] if change["path"] is None else change["path"])


def order(change: Change) -> bytes:
    """Sorts changes by path."""
    return path(change).encode(*CODING)


def letters(change: Change) -> str:
    """What has happened, for programs."""
    return (
        LETTERS[change["kind"]]
        + ("M" if change["data"] else "")
        + ("m" if change["attributes"] else "")
    )


def sizes(change: Change) -> str:
    """``1.0 KiB -> 2.0 KiB``"""
    old, new = (one and one["size"] for one in (change["old"], change["new"]))
    shown = [output.size_text(size) for size in (old, new) if size is not None]
    return shown[0] if old == new and shown else " -> ".join(shown)


def name(change: Change) -> str:
    """The path for people; ``old -> new`` of what is renamed, a slash behind directories."""
    mark = "/" if (change["new"] or change["old"])["type"] == "directory" else ""
    text = (
        f"{change['old_path']}{mark} -> {change['path']}"
        if change["kind"] == "renamed"
        else path(change)
    )
    return text + mark


def print_null(change: Change) -> None:
    """As ``git status -z``: the old path of what was renamed comes after the new one."""
    paths = [one for one in (change["path"], change["old_path"]) if one is not None]
    shown = paths if change["kind"] == "renamed" else paths[:1]
    sys.stdout.flush()
    sys.stdout.buffer.write(
        letters(change).encode() + b" " + b"".join(one.encode(*CODING) + b"\0" for one in shown)
    )


def document(change: Change) -> Change:
    """A change for programs: times as text, and the old path only where it is another."""
    old_path = change["old_path"] if change["old_path"] != change["path"] else None
    sides = {side: change[side] and output.shown_json(change[side]) for side in ("old", "new")}
    return {**change, "old_path": old_path, "letters": letters(change), **sides}
