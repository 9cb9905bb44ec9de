"""Which paths a restore is of, and what stands there now and stood there then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapfs.errors import NotDirectory, NotFound, UsageError
from snapfs.ids import ROOT_INO
from snapfs.snapshots.compare.sides import (
    Side,
    Steps,
    ask,
)
from snapfs.snapshots.naming import as_path
from snapfs.snapshots.paths import path_bytes

if TYPE_CHECKING:
    from snapfs.snapshots.rights import Permit
    from snapfs.store.tables.instances import Instance

#: The names of a path, from the root on.
Way = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PathBack:
    """A path that is brought back: the inode there in the snapshot and in the base, 0 for none.

    ``parent`` is the directory of the base that it stands in, 0 as long as there is none.
    """

    way: Way
    past: int
    base: int
    parent: int


def covered_ways(instance: Instance, paths: Sequence[str]) -> list[Way]:
    """The paths that are restored, without those below others; none for the whole volume. Raises
    ``UsageError``.
    """
    own = [part.way for part in instance.parts]
    if not paths:
        return own
    ways = distinct(parse_way(path) for path in paths)
    for way in ways:
        if own and not any(way[: len(one)] == one for one in own):
            raise UsageError(
                f"{as_path(way)}: snapshot {instance.name!r} covers only {instance.path}"
            )
    return [] if ways[0] == () else ways


def parse_way(path: str) -> Way:
    """The names on the way along a path in the volume. Raises ``UsageError``."""
    whole = path_bytes(path)
    return tuple(whole.split(b"/")) if whole else ()


def distinct(ways: Iterable[Way]) -> list[Way]:
    """Paths without those that lie below others, in order."""
    out: list[Way] = []
    for way in sorted(set(ways)):
        if not out or way[: len(out[-1])] != out[-1]:
            out.append(way)
    return out


def find_targets(
    instance: Instance, ways: Sequence[Way], base: Side, past: Side, permit: Permit
) -> Steps[list[PathBack]]:
    """What stands at some paths, now and in a snapshot. Raises ``NotFound``, ``NotDirectory``, and
    what ``permit`` raises.
    """
    out = []
    for way in ways:
        path = b"/".join(way)
        shown = "/" + path.decode(errors="replace")
        then = yield from past.at_path(path)
        if len(then) < len(way) and not _was_absent(instance, way):
            raise NotFound(f"{shown}: there is no such path in snapshot {instance.name!r}")
        now = yield from base.at_path(path)
        if len(now) < len(way) and now and not now[-1].is_directory:
            at = "/" + b"/".join(way[: len(now)]).decode(errors="replace")
            raise NotDirectory(f"{shown}: {at} is not a directory now: move it away first")
        wanted = then[-1].ino if len(then) == len(way) else 0
        present = now[-1].ino if len(now) == len(way) else 0
        above = [ROOT_INO, *(one.ino for one in now)]
        out.append(
            PathBack(way, wanted, present, above[len(way) - 1] if len(above) >= len(way) else 0)
        )
    for one in out:
        yield from _check_permitted(base, past, one, permit)
    return out


def _was_absent(instance: Instance, way: Way) -> bool:
    """Does the snapshot say that there was nothing at a path?"""
    return any(part.way == way and not part.ino for part in instance.parts)


def _check_permitted(base: Side, past: Side, target: PathBack, permit: Permit) -> Steps[None]:
    """What stands there counts; where nothing does, what stood there, and the directory that is
    going to have it.
    """
    if target.base:
        permit((yield from ask(base.view.raw_inode, target.base)))
        return
    way = yield from base.at_path(b"/".join(target.way))
    permit(way[-1] if way else (yield from ask(base.view.raw_inode, ROOT_INO)))
    if target.past:
        permit((yield from ask(past.view.raw_inode, target.past)))
