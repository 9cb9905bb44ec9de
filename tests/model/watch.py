"""Watches one mount: keeps the kernel's caches warm, and compares all that it shows with a fresh
mount of the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tests.model import hands
from tests.model.hands import Hand, Seen
from tests.model.sight import differences, directories, listings, look
from tests.model.twin import Twins

Run = Callable[..., "subprocess.CompletedProcess[str]"]

#: Lines of a message for each place.
SHOWN = 5


class Watch:
    """One mount under test, with all names that were ever used in it. Paths are relative to its
    root, which is ``""``.
    """

    def __init__(self, top: Path, image: Path, pid: int, twins: Twins) -> None:
        self.top = top
        self.image = image
        self._pid = pid
        self._twins = twins
        self._seed = 0
        #: Of the tree, there or not; each may be in any view.
        self.names: set[str] = {""}
        #: Those that were directories at some time.
        self._directories: set[str] = {""}
        #: Of snapshots, there or not.
        self.snapshots: set[str] = set()
        #: Every how manyth name is looked at in snapshots: in a large tree all of them take long.
        self.share = 1
        self.hands: list[Hand] = []
        #: Whether files that nobody has a name for may end for who has them open: the whole volume
        #: went back.
        self.may_end = False
        #: The numbers of files that somebody has had open.
        self.users: set[str] = set()
        self._root = os.open(top, os.O_RDONLY)

    def close(self) -> None:
        for hand in self.hands:
            hand.close()
        self.hands.clear()
        os.close(self._root)

    # --- before ---

    def learn(self) -> None:
        """Take in the names that listings show, everywhere."""
        self._learn_snapshots(self.top)
        for view in list(self._views()):
            for where, inner, files in os.walk(self.top / view):
                self._learn_snapshots(Path(where))
                here = os.path.relpath(where, self.top / view)
                self.names |= {os.path.normpath(os.path.join(here, name)) for name in inner + files}
                self._directories |= {os.path.normpath(os.path.join(here, name)) for name in inner}

    def _learn_snapshots(self, directory: Path) -> None:
        with contextlib.suppress(OSError):  # what a wrong belief does is told by the comparison
            self.snapshots |= set(os.listdir(directory / ".snap"))

    def warm(self) -> None:
        """Let the kernel look at everything, in both ways, and remember what is held."""
        self.may_end = False
        self.learn()
        places = self._places()
        found = look(self.top, places, self._next_seed())
        listings(self.top, directories(found))
        keeps = [hand for hand in self.hands if hands.renew(hand)]
        for hand in self.hands:
            if hand not in keeps:
                hand.close()
        self.hands = keeps

    def hold(self, paths: Iterable[str], *, writes: bool = False) -> None:
        """Open all that is there."""
        for path in sorted(paths):
            if os.path.lexists(self.top / path):
                self.hands += hands.take(self.top, path, writes=writes)
                self.users |= {f"{hand.ino:#x}" for hand in self.hands}

    def _views(self) -> Iterator[str]:
        yield ""
        yield from (f".snap/{name}" for name in sorted(self.snapshots))

    def _places(self) -> set[str]:
        some = {
            name for number, name in enumerate(sorted(self.names)) if number % self.share == 0
        } | {""}
        views = {
            os.path.join(view, name) if name else view
            for view in self._views()
            if view
            for name in some
        }
        snapdirs = {os.path.join(name, ".snap") for name in some & self._directories}
        return (
            self.names
            | views
            | snapdirs
            | {f"{snapdir}/{name}" for snapdir in snapdirs for name in self.snapshots}
        )

    def _next_seed(self) -> int:
        self._seed += 1
        return self._seed

    # --- after ---

    def complaints(self) -> list[str]:
        """All in which this mount differs from a fresh one: by name, then by listing, then under
        names that only that showed.
        """
        places = self._places()
        # Where something is, the kernel finds out when somebody looks there.
        seen = [replace(hands.use(hand), place="") for hand in self.hands]
        found = look(self.top, places, self._next_seed())
        seen_again = [hands.use(hand) for hand in self.hands]
        listed = listings(self.top, directories(found))
        self.learn()
        found |= look(self.top, self._places() - places, self._next_seed())
        self._sync()
        with self._twins.of(self.image, self._pid) as twin:
            right = look(twin, found, self._next_seed())
            wrong = differences(found, right, self.users)
            wrong += [
                f"{path or '.'}: lists {listed[path]}, on a fresh mount {names}"
                for path, names in listings(twin, directories(right)).items()
                if listed.get(path, names) != names
            ]
            wrong += self._of_hands(seen, twin, found)
            wrong += [line + " (after looking)" for line in self._of_hands(seen_again, twin, found)]
            return wrong

    def check(self, what: str) -> None:
        """Fail with every kind of difference."""
        found = self.complaints()
        by_place: dict[str, list[str]] = {}
        for line in found:
            by_place.setdefault("/".join(line.removeprefix("open ").split("/")[:2]), []).append(
                line
            )
        lines = [line for several in by_place.values() for line in several[:SHOWN]]
        assert not found, (
            f"{what}: {len(found)} differences from a fresh mount, among them\n" + "\n".join(lines)
        )

    def _of_hands(self, seen: list[Seen], twin: Path, places: Iterable[str]) -> list[str]:
        where: dict[bytes, str] = {}
        for path in sorted(places, reverse=True):
            try:
                where[hands.identity(twin / path)] = path
            except OSError:
                continue
        found = (
            hands.complaint(
                hand, each, self.top, where.get(hand.identity), twin, may_end=self.may_end
            )
            for hand, each in zip(self.hands, seen, strict=True)
        )
        return [line for line in found if line]

    def is_settled(self, run: Run) -> bool:
        """Whether all that was purged has lost its names, which happens in the background: until
        then it cannot be compared.
        """
        os.fsync(self._root)
        return not any(
            "in the background" in run("diff", self.top, name, code=None).stderr
            for name in os.listdir(self.top / ".snap")
        )

    def _sync(self) -> None:
        for hand in self.hands:
            if hand.writes:
                hand.sync()
        os.fsync(self._root)
