"""Random histories of a mount with snapshots, by a seed: what programs do, what people do with
snapshots, and who has what open meanwhile.

Whether a step works does not matter; what can be seen after it does.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.model.rooms import acl
from tests.model.sight import ACCESS, DEFAULT
from tests.model.watch import Run, Watch

NAMES = ("a", "b", "c")
DEPTH = 3
SNAPSHOTS = ("s1", "s2", "s3")


class History:
    """Steps on one mount. Each says what it does, so that a failing history can be read."""

    def __init__(self, watch: Watch, run: Run, wait_until: Callable[..., None], seed: int) -> None:
        self._watch = watch
        self._wait_until = wait_until
        self._run = run
        self._dice = random.Random(seed)
        self.told: list[str] = []

    def programs(self, count: int) -> None:
        """What programs do to the tree, in any view, and through what they have open."""
        steps = (
            self._make, self._make, self._write, self._write, self._remove, self._remove_tree,
            self._rename, self._rename,
            self._exchange, self._link, self._attributes, self._acl, self._through_a_hand,
            self._replace,
        )  # fmt: skip
        for _ in range(count):
            told = len(self.told)
            try:
                self._dice.choice(steps)()
            except OSError:
                del self.told[told:]

    def snapshots(self) -> None:
        """One thing that people do with snapshots."""
        steps = (
            self._create,
            self._restore,
            self._restore,
            self._restore,
            self._restore,
            self._purge,
            self._rename_one,
            self._delete,
        )
        with contextlib.suppress(OSError):
            (self._dice.choice(steps) if self._existing() else self._create)()

    def use(self) -> None:
        """Somebody opens some of what is there, somebody else lets go."""
        dice = self._dice
        for hand in [hand for hand in self._watch.hands if dice.random() < 0.3]:
            self._watch.hands.remove(hand)
            hand.close()
        for _ in range(dice.randrange(4)):
            path = self._path()
            writes = dice.random() < 0.5
            self._say(f"hold {path}{' to write' if writes else ''}")
            with contextlib.suppress(OSError):
                self._watch.hold([path], writes=writes)

    # --- choices ---

    def _say(self, line: str) -> None:
        self.told.append(line)

    def _path(self, *, above: int = 0) -> str:
        """A path of the tree, there or not, in the present most of the time."""
        dice = self._dice
        path = "/".join(dice.choice(NAMES) for _ in range(dice.randint(1, DEPTH - above)))
        self._watch.names.add(path)
        views = self._existing()
        return f".snap/{dice.choice(views)}/{path}" if views and dice.random() < 0.2 else path

    def _there(self) -> str:
        """A path of something, if that is found in a few attempts."""
        for _ in range(8):
            path = self._path()
            if os.path.lexists(self._watch.top / path):
                break
        return path

    def _in_view_of(self, path: str) -> str:
        """Another path of the same view."""
        other = "/".join(self._dice.choice(NAMES) for _ in range(self._dice.randint(1, DEPTH)))
        self._watch.names.add(other)
        return "/".join([*path.split("/")[:2], other]) if path.startswith(".snap/") else other

    def _existing(self) -> list[str]:
        return sorted(os.listdir(self._watch.top / ".snap"))

    def _place(self, path: str) -> Path:
        return self._watch.top / path

    # --- what programs do ---

    def _make(self) -> None:
        path = self._path()
        kind = self._dice.choice(("directory", "directory", "directory", "link", "pipe"))
        self._say(f"make {kind} {path}")
        if kind == "directory":
            self._place(path).parent.mkdir(parents=True, exist_ok=True)
            self._place(path).mkdir()
        elif kind == "link":
            self._place(path).symlink_to(self._dice.choice(NAMES))
        else:
            os.mkfifo(self._place(path))

    def _write(self) -> None:
        path = self._path()
        data = self._dice.randbytes(self._dice.choice((1, 100, 5000, 20_000)))
        self._say(f"write {path} {len(data)}")
        self._place(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            self._place(path),
            os.O_WRONLY
            | os.O_CREAT
            | os.O_NOFOLLOW
            | os.O_NONBLOCK
            | self._dice.choice((0, os.O_TRUNC)),
        )
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def _remove(self) -> None:
        path = self._there()
        self._say(f"remove {path}")
        place = self._place(path)
        if place.is_dir() and not place.is_symlink():
            place.rmdir()
        else:
            place.unlink()

    def _remove_tree(self) -> None:
        path = self._there()
        self._say(f"rm -r {path}")
        if self._place(path).is_dir():  # opening a pipe would wait for somebody
            shutil.rmtree(self._place(path))

    def _rename(self) -> None:
        path = self._there()
        new = self._in_view_of(path)
        self._say(f"rename {path} {new}")
        self._place(path).rename(self._place(new))

    def _exchange(self) -> None:
        path = self._there()
        new = self._in_view_of(path)
        self._say(f"swap {path} {new}")
        aside = self._place(self._in_view_of(path)).with_name("aside")
        self._watch.names.add(os.path.relpath(aside, self._watch.top))
        self._place(path).rename(aside)
        self._place(new).rename(self._place(path))
        aside.rename(self._place(new))

    def _replace(self) -> None:
        """Another thing under the same name."""
        path = self._there()
        self._say(f"replace {path}")
        place = self._place(path)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()
        make: Callable[[], object] = self._dice.choice(
            (
                place.mkdir,
                lambda: place.write_bytes(b"other"),
                lambda: place.symlink_to("b"),
                lambda: os.mkfifo(place),
            )
        )
        make()

    def _link(self) -> None:
        path = self._there()
        new = self._in_view_of(path)
        self._say(f"link {path} {new}")
        os.link(self._place(path), self._place(new), follow_symlinks=False)

    def _attributes(self) -> None:
        path = self._dice.choice((self._there(), self._there(), self._there(), ""))
        place = self._place(path)
        what = self._dice.randrange(4)
        self._say(f"attributes {what} of {path or '.'}")
        if what == 0:
            os.chmod(place, self._dice.choice((0o700, 0o755, 0o711)) | 0o600)
        elif what == 1:
            os.chown(place, self._dice.choice((0, 65532)), 65531, follow_symlinks=False)
        elif what == 2:
            os.utime(
                place, ns=(1_000_000_000, self._dice.randrange(1 << 40)), follow_symlinks=False
            )
        else:
            os.setxattr(place, "user.x", self._dice.randbytes(8))

    def _acl(self) -> None:
        path = self._dice.choice((self._there(), self._there(), self._there(), ""))
        name = self._dice.choice((ACCESS, DEFAULT))
        self._say(f"{name} of {path or '.'}")
        if self._dice.random() < 0.3:
            os.removexattr(self._place(path), name)
        else:
            os.setxattr(
                self._place(path),
                name,
                acl(65530 + self._dice.randrange(3), self._dice.randrange(8)),
            )

    def _through_a_hand(self) -> None:
        """Write into what is open, whatever became of its name."""
        writers = [hand for hand in self._watch.hands if hand.writes]
        if writers:
            hand = self._dice.choice(writers)
            self._say(f"write through what was {hand.path}")
            os.pwrite(
                hand.descriptor, self._dice.randbytes(300), self._dice.choice((0, 0, 4000, 9000))
            )

    # --- what people do with snapshots ---

    def _create(self) -> None:
        name = self._dice.choice(SNAPSHOTS)
        self._watch.snapshots.add(name)
        directory = self._dice.choice(("", "", self._there()))
        self._say(f"snapshot {name} of {directory or '.'}")
        (self._place(directory) / ".snap" / name).mkdir()

    def _restore(self) -> None:
        name = self._dice.choice(self._existing())
        paths = [self._path_of_the_present() for _ in range(self._dice.choice((0, 0, 1, 2)))]
        self._say(f"restore {name} {' '.join(paths)}")
        self._watch.may_end = not paths
        self._run(
            "restore",
            self._watch.top,
            name,
            *(word for path in paths for word in ("--path", path)),
            code=None,
        )

    def _path_of_the_present(self) -> str:
        return self._in_view_of("")

    def _purge(self) -> None:
        path = self._path_of_the_present()
        only = (
            ("--snapshot", self._dice.choice(self._existing())) if self._dice.random() < 0.5 else ()
        )
        self._say(f"purge {path} {' '.join(only)}")
        self._run("purge", self._watch.top, path, *only, "--yes", code=None)
        self._wait_until(lambda: self._watch.is_settled(self._run), 60, "the end of the purge")

    def _rename_one(self) -> None:
        name, new = self._dice.choice(self._existing()), self._dice.choice(SNAPSHOTS)
        self._watch.snapshots.add(new)
        self._say(f"rename snapshot {name} {new}")
        if self._dice.random() < 0.5:
            self._run("snapshot", "rename", self._watch.top, name, new, code=None)
        else:
            (self._place(".snap") / name).rename(self._place(".snap") / new)

    def _delete(self) -> None:
        name = self._dice.choice(self._existing())
        self._say(f"delete snapshot {name}")
        if self._dice.random() < 0.5:
            self._run("snapshot", "delete", self._watch.top, name, code=None)
        else:
            (self._place(".snap") / name).rmdir()
