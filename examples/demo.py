"""snapfs at work: a real tree of several thousand files, snapshots, an accident, and the way back.

Run it by ``make demo``. Everything happens in a temporary directory, on a real mount, through the
same commands and system calls that anyone would use; nothing is left behind. What every file of
every view must hold is kept in a plain dictionary beside the mount, and compared by SHA-256, so "it
works" is not a matter of belief. Needs no root where fusermount3 is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: As many files of the standard library (and, where it is small, of installed packages) are copied,
#: unless --files says otherwise.
FILES = 5000

#: What a view must hold: SHA-256 of each file, ``-> TARGET`` of each link, ``/`` for each
#: directory; by relative path.
Tree = dict[str, str]

#: Changes are the same in every run.
dice = random.Random(1)  # noqa: S311 - not for secrets


class Demo:
    """One run: the image, its mount, and what must be in it."""

    def __init__(self, place: Path) -> None:
        self.image = place / "demo.img"
        self.mount = place / "mnt"
        self.mount.mkdir()
        self.base: Tree = {}
        self.views: dict[str, Tree] = {}
        self.proved = 0

    # --- talking ---

    @staticmethod
    def chapter(title: str) -> None:
        """A heading."""
        print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n## {title}", flush=True)

    def say(self, text: str) -> None:
        """A line of narration."""
        print(f"   {text}", flush=True)

    def snapfs(self, *arguments: str | Path, show: int = 12) -> str:
        """Run a command as a user would, and show it with its output and time."""
        words = [str(argument) for argument in arguments]
        print(f"   $ snapfs {self.short(shlex.join(words))}", flush=True)
        start = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-m", "snapfs.cli", *words],
            check=False,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        lines = (result.stdout + result.stderr).splitlines()
        for line in lines[:show]:
            print(f"     {self.short(line)}")
        if len(lines) > show:
            print(f"     ... {len(lines) - show} lines more")
        if result.returncode:
            raise SystemExit(f"demo: the command failed with exit code {result.returncode}")
        print(f"     ({seconds:.2f} s)", flush=True)
        return result.stdout

    def short(self, text: str) -> str:
        """Without the temporary directory's long name."""
        return text.replace(str(self.image.parent) + "/", "")

    # --- changing the live tree, and the dictionary with it ---

    def put(self, name: str, data: bytes) -> None:
        """Write a file."""
        (self.mount / name).write_bytes(data)
        self.base[name] = digest(data)

    def copy(self, sources: list[tuple[Path, str]]) -> int:
        """Copy files and links; returns the bytes copied."""
        total = 0
        for source, name in sources:
            for parent in reversed(Path(name).parents[:-1]):
                if str(parent) not in self.base:
                    (self.mount / parent).mkdir()
                    self.base[str(parent)] = "/"
            if source.is_symlink():
                (self.mount / name).symlink_to(os.readlink(source))
                self.base[name] = f"-> {os.readlink(source)}"
            else:
                data = source.read_bytes()
                self.put(name, data)
                shutil.copystat(source, self.mount / name)
                total += len(data)
        return total

    def files(self) -> list[str]:
        """The live tree's regular files."""
        return sorted(name for name, what in self.base.items() if what[0] not in "-/")

    def change(self, name: str) -> None:
        """Overwrite some bytes somewhere in the middle."""
        data = bytearray((self.mount / name).read_bytes())
        place = dice.randrange(len(data) + 1)
        piece = dice.randbytes(300)
        with open(self.mount / name, "r+b") as file:
            file.seek(place)
            file.write(piece)
        data[place : place + len(piece)] = piece
        self.base[name] = digest(bytes(data))

    def truncate(self, name: str) -> None:
        """Cut a file somewhere."""
        data = (self.mount / name).read_bytes()
        length = dice.randrange(len(data) + 1)
        os.truncate(self.mount / name, length)
        self.base[name] = digest(data[:length])

    def rename(self, name: str, new_name: str) -> None:
        """Rename a file."""
        (self.mount / name).rename(self.mount / new_name)
        self.base[new_name] = self.base.pop(name)

    def delete(self, name: str) -> None:
        """Delete a file."""
        (self.mount / name).unlink()
        del self.base[name]

    # --- proving ---

    def prove(self, what: str, place: Path, expected: Tree) -> None:
        """Every name and every byte below ``place`` is what the dictionary says, nothing is missing
        and nothing is there besides.
        """
        start = time.perf_counter()
        found = scan(place)
        if found != expected:
            wrong = sorted(
                name
                for name in found.keys() | expected.keys()
                if found.get(name) != expected.get(name)
            )
            raise SystemExit(
                f"demo: {what} is WRONG in {len(wrong)} places, the first: {', '.join(wrong[:5])}"
            )
        self.proved += len(found)
        self.say(
            f"{what}: {len(found)} files and directories, all as they must be "
            f"({time.perf_counter() - start:.1f} s)"
        )

    def prove_all(self) -> None:
        """The live tree and every snapshot, and no other snapshot is there."""
        self.prove("the live tree", self.mount, self.base)
        names = sorted(entry.name for entry in (self.mount / ".snap").iterdir())
        if names != sorted(self.views):
            raise SystemExit(f"demo: .snap shows {names}, must show {sorted(self.views)}")
        for name in names:
            self.prove(f".snap/{name}", self.mount / ".snap" / name, self.views[name])


def digest(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def scan(place: Path) -> Tree:
    """What is there."""
    tree: Tree = {}
    for directory, directories, files in os.walk(place):
        here = Path(directory)
        for name in directories + files:
            path = here / name
            if path.is_symlink():
                what = f"-> {os.readlink(path)}"
            elif path.is_dir():
                what = "/"
            else:
                what = digest(path.read_bytes())
            tree[str(path.relative_to(place))] = what
    return tree


def real_files(limit: int) -> Iterator[tuple[Path, str]]:
    """Files of the interpreter's standard library, then of installed packages, each with its name
    in the copy.
    """
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    count = 0
    for root, prefix in ((library, "lib"), (packages, "packages")):
        for directory, directories, files in os.walk(root):
            directories[:] = sorted(
                name
                for name in directories
                if name not in ("site-packages", "dist-packages", "__pycache__")
            )
            for name in sorted(files):
                path = Path(directory) / name
                if path.is_file() or path.is_symlink():
                    yield path, f"{prefix}/{path.relative_to(root)}"
                    count += 1
                    if count == limit:
                        return


def work_week(demo: Demo) -> None:
    """Hundreds of changes of every kind."""
    names = demo.files()
    dice.shuffle(names)
    kinds = [names[:200], names[200:320], names[320:520], names[520:670]]
    for name in kinds[0]:
        demo.change(name)
    for name in kinds[1]:
        demo.truncate(name)
    for name in kinds[2]:
        demo.delete(name)
    for number, name in enumerate(kinds[3]):
        demo.rename(name, f"lib/renamed-{number}")
    for number in range(50):
        demo.put(f"lib/new-{number}.txt", dice.randbytes(dice.randrange(20_000)))
    changed, cut, deleted, renamed = map(len, kinds)
    demo.say(
        f"changed {changed}, truncated {cut}, deleted {deleted}, renamed {renamed} "
        "files, made 50 new ones"
    )


def accident(demo: Demo) -> None:
    """What snapshots are for."""
    doomed = [name for name in demo.files() if dice.random() < 0.5]
    for name in doomed:
        demo.delete(name)
    for name in demo.files()[:100]:
        demo.put(name, b"garbage\n")
    demo.say(f"a careless script deletes {len(doomed)} files and writes garbage into 100 others")


def run(demo: Demo, files: int) -> None:
    """The whole story."""
    demo.chapter("A volume in one file")
    demo.snapfs("mkfs", demo.image, "--size", "1G", "--label", "demo")
    demo.say(
        f"the image says 1 GiB and takes {demo.image.stat().st_blocks * 512 // 1024} "
        "KiB on the disk: it grows as it fills"
    )
    demo.snapfs("mount", demo.image, demo.mount)

    demo.chapter("Real files")
    start = time.perf_counter()
    sources = list(real_files(files))
    total = demo.copy(sources)
    demo.say(
        f"copied {len(sources)} files of Python's own library, {total >> 20} MiB, in "
        f"{time.perf_counter() - start:.1f} s"
    )

    demo.chapter("A snapshot, work, and another snapshot")
    demo.snapfs("snapshot", "create", demo.mount, "monday")
    demo.views["monday"] = dict(demo.base)
    work_week(demo)
    demo.say(
        "$ mkdir mnt/.snap/tuesday            (a snapshot is a directory: any program can make one)"
    )
    (demo.mount / ".snap" / "tuesday").mkdir()
    demo.views["tuesday"] = dict(demo.base)
    demo.say("$ mkdir mnt/.snap/scratch")
    (demo.mount / ".snap" / "scratch").mkdir()

    demo.chapter("Past states are ordinary directories")
    demo.snapfs("snapshot", "list", demo.mount)
    gone = next(
        name for name in demo.views["monday"] if name not in demo.base and name.endswith(".py")
    )
    size = (demo.mount / ".snap/monday" / gone).stat().st_size
    demo.say(
        f"$ ls mnt/{gone}                -> "
        f"{'there' if (demo.mount / gone).exists() else 'deleted since Monday'}"
    )
    demo.say(f"$ ls mnt/.snap/monday/{gone}   -> {size} bytes")

    demo.chapter("They can be written, too: a change inside Monday")
    note = b"# written on Wednesday, into Monday\n"
    edited = next(
        name for name in demo.views["monday"] if name in demo.base and name.endswith("/__init__.py")
    )
    inside = demo.mount / ".snap/monday" / edited
    with open(inside, "ab") as file:
        file.write(note)
    (demo.mount / ".snap/monday/added-later.txt").write_bytes(note)
    before = inside.read_bytes().removesuffix(note)
    demo.views["monday"][edited] = digest(before + note)
    demo.views["monday"]["added-later.txt"] = digest(note)
    demo.say(
        f"appended a line to .snap/monday/{edited} and added a file there; Tuesday and "
        "the live tree must not notice"
    )

    demo.chapter("Deleting a snapshot")
    demo.say("$ rmdir mnt/.snap/scratch")
    (demo.mount / ".snap" / "scratch").rmdir()

    demo.chapter("Proof, by SHA-256 of everything")
    demo.prove_all()

    demo.chapter("The accident")
    accident(demo)

    demo.chapter("Back to Monday, while mounting")
    demo.snapfs("umount", demo.mount)
    demo.snapfs("mount", demo.image, demo.mount, "-o", "restore=monday")
    undo = [
        entry.name for entry in (demo.mount / ".snap").iterdir() if entry.name not in demo.views
    ]
    if len(undo) != 1:
        raise SystemExit(
            f"demo: one snapshot with the state from before must be there, found {undo}"
        )
    demo.views[undo[0]] = demo.base
    demo.base = dict(demo.views["monday"])
    demo.say(
        f"the state from before, accident and all, is the snapshot {undo[0]}: a restore "
        "can be undone"
    )
    demo.prove_all()

    demo.chapter("The image itself")
    demo.snapfs("umount", demo.mount)
    demo.snapfs("check", demo.image)
    taken = demo.image.stat().st_blocks * 512 >> 20
    demo.say(
        f"it now takes {taken} MiB on the disk, for {total >> 20} MiB of files in "
        f"{len(demo.views) + 1} states"
    )


def main() -> int:
    """Run in a directory of its own, which is gone afterwards."""
    parser = argparse.ArgumentParser(description="See snapfs work on a real mount.")
    parser.add_argument(
        "--files", type=int, default=FILES, help="how many files to copy, at least 1000"
    )
    files = parser.parse_args().files
    start = time.perf_counter()
    place = Path(tempfile.mkdtemp(prefix="snapfs-demo-"))
    demo = Demo(place)
    try:
        run(demo, files)
    finally:
        if demo.mount.is_mount():
            subprocess.run(
                [sys.executable, "-m", "snapfs.cli", "umount", "--lazy", str(demo.mount)],
                check=False,
            )
        # A lazy unmount may take its moment; what cannot be removed then is only an empty
        # directory.
        with contextlib.suppress(OSError):
            shutil.rmtree(place)
    print(
        f"\nAll {demo.proved} names in all views proved. "
        f"{time.perf_counter() - start:.0f} s. Nothing is left behind."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
