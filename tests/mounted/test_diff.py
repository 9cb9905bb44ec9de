"""``snapfs diff`` on real mounts and images: what it finds, in every form, and what it says when it
cannot.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Rows = set[tuple[Any, ...]]

#: A major number that no driver has.
NO_DEVICE = 4000

#: What a path shows: type, content, attributes, time of modification.
Facts = tuple[int, Any, Any, Any]


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert re.fullmatch(r"snapfs: [^\n]+\n", result.stderr), result.stderr
    assert "internal error" not in result.stderr
    for word in words:
        assert word in result.stderr


def changes(run: Run, target: object, *arguments: str) -> list[dict[str, Any]]:
    return json.loads(run("diff", target, *arguments, "--json").stdout)["changes"]


def rows(run: Run, target: object, *arguments: str) -> Rows:
    return {
        (one["letters"], one["old_path"], one["path"]) for one in changes(run, target, *arguments)
    }


# --- walking both trees ---------------------------------------------------------------------------


def facts(path: bytes) -> Facts:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    content: Any = None
    if kind == stat.S_IFREG:
        content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        content = status.st_rdev
    extended = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    extended = {name: value for name, value in extended.items() if not name.startswith("ceph.")}
    mtime = None if kind == stat.S_IFDIR else status.st_mtime_ns
    return (
        kind,
        content,
        (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, extended),
        mtime,
    )


def walk(top: Path) -> dict[bytes, Facts]:
    found = {b".": facts(os.fsencode(top))}
    for directory, directories, files in os.walk(os.fsencode(top)):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, os.fsencode(top))] = facts(path)
    return found


def compare_with_walk(
    told: list[dict[str, Any]], old: dict[bytes, Facts], new: dict[bytes, Facts]
) -> None:
    """Directories that were renamed are moved in the old tree, with all that lies in them; then
    path is compared with path.
    """

    def raw(path: str | None) -> bytes:
        return b"" if path is None else path.encode("utf-8", "surrogateescape")

    moved = {
        raw(one["old_path"]): raw(one["path"])
        for one in told
        if one["kind"] == "renamed" and one["new"]["type"] == "directory"
    }

    def now(path: bytes) -> bytes:
        for length in range(path.count(b"/"), -1, -1):
            parts = path.split(b"/")
            head = b"/".join(parts[: length + 1])
            if head in moved:
                return b"/".join([moved[head], *parts[length + 1 :]])
        return path

    pairs = [(path, old[old_path], new[path]) for old_path, path in moved.items()]

    def made_way(path: bytes) -> bool:
        """It lay in a directory that another one has since taken the place of."""
        parents = [path[:index] for index, byte in enumerate(path) if byte == ord("/")]
        return not any(one in moved for one in [path, *parents]) and any(
            parent in moved.values() for parent in parents
        )

    gone = {path for path in old if made_way(path)}
    # What was a moved directory's name is not what has become of it, nor what it came to.
    old = {
        now(path): found for path, found in old.items() if path not in moved and path not in gone
    }
    new = {path: found for path, found in new.items() if path not in moved.values()}
    expected: set[tuple[str, bytes, bool, bool]] = {
        ("removed", path, False, False) for path in gone
    }
    expected |= {("added", path, False, False) for path in new.keys() - old.keys()}
    expected |= {("removed", path, False, False) for path in old.keys() - new.keys()}
    pairs += [(path, old[path], new[path]) for path in old.keys() & new.keys()]
    for path, one, other in pairs:
        data = one[1] != other[1]
        change = data, one[2] != other[2] or (not data and one[3] != other[3])
        if one[0] != other[0]:
            expected.add(("retyped", path, False, False))
        elif any(change):
            expected.add(("changed", path, *change))
    found: set[tuple[str, bytes, bool, bool]] = set()
    for one in told:
        flags = one["data"], one["attributes"]
        path, old_path = raw(one["path"]), raw(one["old_path"] or one["path"])
        if one["kind"] == "renamed" and one["new"]["type"] == "directory":
            found |= {("changed", path, *flags)} if any(flags) else set()
        elif one["kind"] == "renamed":
            found |= {("removed", now(old_path), False, False), ("added", path, False, False)}
        else:
            found.add((one["kind"], now(old_path) if one["kind"] == "removed" else path, *flags))
    assert found == expected


def disturb(top: Path, dice: random.Random, count: int) -> None:
    """Random changes, as many kinds as there are."""
    for number in range(count):
        directories = sorted(
            path for path, _, _ in os.walk(top)
        )  # in an order that is the same in every run
        files = sorted(
            os.path.join(directory, name) for directory, _, names in os.walk(top) for name in names
        )
        place = os.path.join(
            dice.choice(directories), f"n{dice.randrange(40)}" + dice.choice(["", "", " ", "ü"])
        )
        other = dice.choice(files) if files else None
        action = dice.randrange(16)
        with contextlib.suppress(
            OSError, IndexError
        ):  # what cannot be done, or there is nothing to do it to
            if action < 3 and (
                not os.path.lexists(place) or stat.S_ISREG(os.lstat(place).st_mode)
            ):  # nobody reads a FIFO, or is a device
                Path(place).write_bytes(dice.randbytes(dice.choice([0, 10, 9000])))
            elif action < 5:
                os.mkdir(place)
            elif action == 5:
                os.symlink(f"target {number}", place)
            elif action == 6:
                os.mknod(
                    place,
                    dice.choice([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK]) | 0o600,
                    os.makedev(NO_DEVICE, number),
                )
            elif action == 7:
                os.rmdir(dice.choice(directories[1:]))
            elif action < 10:
                os.rename(dice.choice(directories[1:] + files), place)
            elif other is None:
                continue
            elif action == 10:
                os.link(other, place, follow_symlinks=False)
            elif action == 11:
                os.unlink(other)
            elif action == 12 and stat.S_ISREG(os.lstat(other).st_mode):
                with open(other, "ab") as file:
                    file.write(b"more")
            elif action == 13:
                os.chmod(dice.choice([other, *directories]), dice.choice([0o600, 0o755, 0o777]))
            elif action == 14:
                os.setxattr(
                    dice.choice([other, *directories]),
                    "user.x",
                    dice.randbytes(dice.choice([3, 3, 5000])),
                )
            else:
                os.utime(other, ns=(0, dice.randrange(1 << 60)), follow_symlinks=False)


@pytest.mark.volume(options="snapsuid")  # or devices in snapshots were shown without their numbers
@pytest.mark.parametrize("seed", range(4))
def test_a_comparison_differs_from_walking_the_mounted_trees(seed: int, mounted) -> None:
    dice = random.Random(seed)
    states = []
    for name in ("one", "two", "three"):
        disturb(mounted.path, dice, 120)
        mounted.snapshot(name)
        states.append((name, walk(mounted.view(name))))
    disturb(mounted.path, dice, 60)
    disturb(mounted.view("two"), dice, 30)  # which is written to, too
    states[1] = "two", walk(mounted.view("two"))
    states.append((".", walk(mounted.path)))
    for old, its in states:
        for new, mine in states:
            told = changes(mounted.run, mounted.path, old, new)
            compare_with_walk(told, its, mine)
            assert bool(told) == (its != mine) or old == new
    mounted.unmount()
    compare_with_walk(changes(mounted.run, mounted.image, "one"), states[0][1], states[-1][1])


@pytest.mark.volume(options="snapsuid")  # as above
@pytest.mark.parametrize("seed", range(3))
def test_a_dry_run_promises_something_else_than_the_restore_does(seed: int, mounted) -> None:
    """A10: what ``restore --dry-run`` lists is what walking the live tree before and after the
    restore finds.
    """
    dice = random.Random(seed)
    disturb(mounted.path, dice, 120)
    mounted.snapshot("s")
    disturb(mounted.path, dice, 100)
    disturb(mounted.view("s"), dice, 20)
    before = walk(mounted.path)
    told = json.loads(mounted.run("restore", mounted.path, "s", "--dry-run", "--json").stdout)
    assert walk(mounted.path) == before
    mounted.run("restore", mounted.path, "s")
    after = walk(mounted.path)
    compare_with_walk(told["changes"], before, after)
    assert after == walk(mounted.view("s"))


@pytest.mark.parametrize("seed", range(6))
def test_a_dry_run_of_paths_promises_something_else_than_their_restore_does(
    seed: int, mounted
) -> None:
    """C7: the same for some paths, and for the snapshot of a directory: what has moved out of them
    comes back, and stays where it is.
    """
    dice = random.Random(seed)
    disturb(mounted.path, dice, 150)
    (mounted / "part").mkdir()
    disturb(mounted / "part", dice, 60)
    mounted.snapshot("s")
    mounted.run("snapshot", "create", mounted.path, "p", "--path", "part")
    for _ in range(6):
        disturb(mounted.path, dice, 60)
        there = sorted(os.fsdecode(path) for path in walk(mounted.view("s")) if path != b".")
        paths = [
            word
            for path in dice.sample(there, dice.choice([0, 1, 1, 2]))
            for word in ("--path", path)
        ]
        words = ["s", *paths] if paths else ["p"]
        before = walk(mounted.path)
        plan = mounted.run("restore", mounted.path, *words, "--dry-run", "--json", code=None)
        assert walk(mounted.path) == before
        done = mounted.run("restore", mounted.path, *words, code=None)
        assert (done.returncode, done.stderr) == (plan.returncode, plan.stderr)
        compare_with_walk(
            json.loads(plan.stdout)["changes"] if plan.returncode == 0 else [],
            before,
            walk(mounted.path),
        )


# --- each kind of change --------------------------------------------------------------------------


def test_each_kind_of_change_has_its_letter(mounted) -> None:
    top = mounted.path
    for name in ("data", "mode", "both", "gone", "type", "moved", "touched", "same"):
        (top / name).write_text(name)
    (top / "old directory" / "deep").mkdir(parents=True)
    (top / "old directory" / "deep" / "file").write_text("1")
    (top / "directory").mkdir()
    mounted.snapshot("s")
    (top / "data").write_text("other")
    (top / "mode").chmod(0o600)
    (top / "both").write_text("new")
    os.setxattr(top / "both", "user.a", b"b")
    (top / "gone").unlink()
    (top / "type").unlink()
    (top / "type").mkdir()
    (top / "type" / "in it").touch()
    (top / "moved").rename(top / "directory" / "new name")
    os.utime(top / "touched", ns=(5, 5))
    (top / "old directory").rename(top / "new directory")
    (top / "new directory" / "deep" / "file").write_text("22")
    (top / "added").write_text("added")
    expected = {
        ("M", None, "data"),
        ("m", None, "mode"),
        ("Mm", None, "both"),
        ("D", "gone", None),
        ("T", None, "type"),
        ("A", None, "type/in it"),
        ("R", "moved", "directory/new name"),
        ("m", None, "touched"),
        ("R", "old directory", "new directory"),
        ("M", "old directory/deep/file", "new directory/deep/file"),
        ("A", None, "added"),
    }
    assert rows(mounted.run, top, "s") == expected
    back = {
        ("A", None, "gone"),
        ("D", "added", None),
        ("R", "directory/new name", "moved"),
        ("R", "new directory", "old directory"),
    }
    assert back < rows(mounted.run, top, ".", "s")
    (data,) = (one for one in changes(mounted.run, top, "s") if one["path"] == "data")
    assert (data["old"]["size"], data["new"]["size"]) == (4, 5)
    assert data["new"]["mtime"].endswith("Z")
    lines = mounted.run("diff", top, "s").stdout.splitlines()
    assert re.search(r"^M +4 B -> 5 B  data$", "\n".join(lines), re.MULTILINE)
    assert re.search(r"^R +old directory/ -> new directory/$", "\n".join(lines), re.MULTILINE)
    paths = [line.split("  ")[-1] for line in lines if not line.startswith("R")]
    assert paths == sorted(paths)


def test_a_directory_is_listed_for_the_names_in_it_alone(mounted) -> None:
    (mounted / "directory").mkdir()
    mounted.snapshot("s")
    (mounted / "directory" / "file").touch()
    assert rows(mounted.run, mounted.path, "s") == {("A", None, "directory/file")}
    (mounted / "directory").chmod(0o700)
    assert rows(mounted.run, mounted.path, "s") == {
        ("A", None, "directory/file"),
        ("m", None, "directory"),
    }
    mounted.path.chmod(0o711)
    assert ("m", None, ".") in rows(mounted.run, mounted.path, "s")


def test_what_the_kernel_has_not_written_yet_is_missed(mounted) -> None:
    """The present is what users see, dirty pages included; in snapshots that are written, too."""
    (mounted / "file").write_text("1")
    view = mounted.snapshot("s")
    with (mounted / "file").open("a") as file, (view / "file").open("a") as other:
        file.write("23")
        file.flush()
        assert rows(mounted.run, mounted.path, "s") == {("M", None, "file")}
        other.write("23")
        other.flush()
        os.utime(view / "file", ns=(1, 1))
        os.utime(mounted / "file", ns=(1, 1))
        assert rows(mounted.run, mounted.path, "s") == set()


def test_content_that_was_written_anew_is_no_change(mounted) -> None:
    """Blocks that moved are compared by what is in them; a hole is as good as zeros."""
    (mounted / "file").write_bytes(b"x" * 100_000)
    (mounted / "zeros").write_bytes(bytes(100_000))
    mounted.snapshot("s")
    for name, content in (("file", b"x" * 100_000), ("zeros", b"")):
        times = (mounted / name).stat()
        (mounted / name).write_bytes(content)
        os.truncate(mounted / name, 100_000)
        os.utime(mounted / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert rows(mounted.run, mounted.path, "s") == set()
    (mounted / "file").touch()
    assert rows(mounted.run, mounted.path, "s") == {("m", None, "file")}


def test_names_of_one_file_are_missed(mounted) -> None:
    """A second name is an addition; what is changed is changed under all
    names, wherever they are.
    """
    for name in ("a", "b", "c"):
        (mounted / name).mkdir()
    (mounted / "a" / "one").write_text("1")
    os.link(mounted / "a" / "one", mounted / "b" / "two")
    os.link(mounted / "a" / "one", mounted / "b" / "three")
    # The name that it was made with is gone.
    (mounted / "a" / "first").write_text("1")
    os.link(mounted / "a" / "first", mounted / "c" / "last")
    (mounted / "a" / "first").unlink()
    mounted.snapshot("s")
    os.link(mounted / "a" / "one", mounted / "c" / "four")
    assert rows(mounted.run, mounted.path, "s") == {("A", None, "c/four")}
    (mounted / "b" / "three").write_text("2")
    (mounted / "c" / "last").write_text("2")
    changed = {("M", None, name) for name in ("a/one", "b/two", "b/three", "c/last")}
    assert rows(mounted.run, mounted.path, "s") == {("A", None, "c/four"), *changed}
    (mounted / "b" / "two").unlink()
    assert rows(mounted.run, mounted.path, "s") == {("RM", "b/two", "c/four"), *changed} - {
        ("M", None, "b/two")
    }


def test_names_that_changed_hands(mounted) -> None:
    """What stands under a name is compared with what stood there, directories that live on with
    themselves.
    """
    for number in range(3):
        (mounted / f"log.{number}").write_text(f"log {number}")
    for name in ("app", "left", "right"):
        (mounted / name).mkdir()
        (mounted / name / "file").write_text(name)
    mounted.snapshot("s")
    for number in (2, 1, 0):
        (mounted / f"log.{number}").rename(mounted / f"log.{number + 1}")
    (mounted / "log.0").write_text("another log")
    (mounted / "app").rename(mounted / "app.old")
    (mounted / "app").mkdir()
    (mounted / "app" / "file").write_text("app")
    (mounted / "left").rename(mounted / "x")
    (mounted / "right").rename(mounted / "left")
    (mounted / "x").rename(mounted / "right")
    expected = {
        ("A", None, "log.3"),
        ("A", None, "app"),
        ("A", None, "app/file"),
        ("R", "app", "app.old"),
        ("R", "left", "right"),
        ("R", "right", "left"),
    }
    assert rows(mounted.run, mounted.path, "s") == expected | {
        ("M", None, f"log.{number}") for number in range(3)
    }


def test_a_directory_that_was_made_anew_is_compared_with_the_one_before(mounted) -> None:
    for name in ("same", "changed", "gone"):
        (mounted / "app" / "sub").mkdir(parents=True, exist_ok=True)
        (mounted / "app" / "sub" / name).write_text(name)
        os.utime(mounted / "app" / "sub" / name, ns=(7, 7))
    mounted.snapshot("s")
    subprocess.run(["cp", "-a", mounted / "app", mounted / "new"], check=True)
    subprocess.run(["rm", "-r", mounted / "app"], check=True)
    (mounted / "new").rename(mounted / "app")
    assert rows(mounted.run, mounted.path, "s") == set()
    (mounted / "app" / "sub" / "gone").unlink()
    (mounted / "app" / "sub" / "changed").write_text("something")
    assert rows(mounted.run, mounted.path, "s") == {
        ("D", "app/sub/gone", None),
        ("M", None, "app/sub/changed"),
    }


def test_a_restore_makes_files_others(mounted) -> None:
    """After going back, files that the kernel knew are still the same files."""
    (mounted / "file").write_text("1")
    mounted.snapshot("s")
    (mounted / "file").write_text("22")
    mounted.run("restore", mounted.path, "s")
    assert (mounted / "file").read_text() == "1"
    assert rows(mounted.run, mounted.path, "s") == set()
    (mounted / "file").rename(mounted / "other")
    assert rows(mounted.run, mounted.path, "s") == {("R", "file", "other")}


def test_names_that_are_not_utf_8(mounted, snapfs_command) -> None:
    raw = os.fsencode(mounted.path)
    mounted.snapshot("s")
    with open(raw + b"/\xff\n\x1b[1m", "w") as file:
        file.write("1")
    (one,) = changes(mounted.run, mounted.path, "s")
    assert one["path"].encode("utf-8", "surrogateescape") == b"\xff\n\x1b[1m"
    result = mounted.run("diff", mounted.path, "s").stdout
    assert result == f"A   {'1 B':>24}  \\udcff\\n\\x1b[1m\n"
    command = snapfs_command(
        "diff", mounted.path, "s", "--path", os.fsdecode(b"\xff\n\x1b[1m"), "-0"
    )
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"A \xff\n\x1b[1m\0"


# --- directories ----------------------------------------------------------------------------------


def test_a_snapshot_of_a_directory_is_compared_outside_of_it(mounted) -> None:
    (mounted / "a" / "part" / "sub").mkdir(parents=True)
    (mounted / "a" / "part" / "sub" / "file").write_text("1")
    (mounted / "a" / "outside").write_text("1")
    (mounted / "a" / "comes").mkdir()
    (mounted / "a" / "part" / ".snap" / "p").mkdir()
    mounted.snapshot("whole")
    (mounted / "a" / "outside").write_text("2")
    (mounted / "new outside").touch()
    (mounted / "a" / "part" / "sub" / "file").write_text("2")
    (mounted / "a" / "part" / "new").touch()
    expected = {("M", None, "a/part/sub/file"), ("A", None, "a/part/new")}
    assert rows(mounted.run, mounted.path, "p") == expected
    assert rows(mounted.run, mounted.path, "whole", "p") == set()
    assert rows(mounted.run, mounted.path, "p", "whole") == set()
    # What crosses the border comes and goes.
    (mounted / "a" / "comes").rename(mounted / "a" / "part" / "came")
    (mounted / "a" / "part" / "sub").rename(mounted / "a" / "went")
    expected = {
        ("A", None, "a/part/new"),
        ("A", None, "a/part/came"),
        ("D", "a/part/sub", None),
        ("D", "a/part/sub/file", None),
    }
    assert rows(mounted.run, mounted.path, "p") == expected
    # The part itself may move, go, and be made anew.
    (mounted / "a" / "went").rename(mounted / "a" / "part" / "sub")
    (mounted / "a").rename(mounted / "b")
    found = rows(mounted.run, mounted.path, "p")
    assert {
        ("R", "a/part", "b/part"),
        ("M", "a/part/sub/file", "b/part/sub/file"),
        ("A", None, "b/part/new"),
    } <= found
    subprocess.run(["rm", "-r", mounted / "b"], check=True)
    gone = {("D", name, None) for name in ("a/part", "a/part/sub", "a/part/sub/file")}
    assert rows(mounted.run, mounted.path, "p") == gone
    (mounted / "a" / "part").mkdir(parents=True)
    assert rows(mounted.run, mounted.path, "p") == {one for one in gone if one[1] != "a/part"}


def test_two_parts_that_have_nothing_in_common(mounted) -> None:
    for name in ("a", "b"):
        (mounted / name / "in").mkdir(parents=True)
        (mounted / name / ".snap" / f"of {name}").mkdir()
    (mounted / "a" / "in" / ".snap" / "inner").mkdir()
    (mounted / "a" / "file").touch()
    (mounted / "a" / "in" / "file").touch()
    one_line(mounted.run("diff", mounted.path, "of a", "of b", code=2), "different directories")
    (mounted / "a" / ".snap" / "later").mkdir()
    assert rows(mounted.run, mounted.path, "inner", "later") == {("A", None, "a/in/file")}
    assert rows(mounted.run, mounted.path, "later", "inner") == {("D", "a/in/file", None)}
    assert rows(mounted.run, mounted.path, "of a", "later") == {
        ("A", None, "a/file"),
        ("A", None, "a/in/file"),
    }


# --- the command ----------------------------------------------------------------------------------


def test_filters_by_path(mounted) -> None:
    for name in ("a", "b"):
        (mounted / name / "deep").mkdir(parents=True)
    (mounted / "a" / "moves").touch()
    mounted.snapshot("s")
    for name in ("a/one", "a/deep/two", "b/three", "ab"):
        (mounted / name).touch()
    (mounted / "a" / "moves").rename(mounted / "b" / "moved")
    run = mounted.run
    a = {("A", None, "a/one"), ("A", None, "a/deep/two"), ("R", "a/moves", "b/moved")}
    assert rows(run, mounted.path, "s", "--path", "a") == a
    assert rows(run, mounted.path, "s", "--path", "/a/") == a
    assert rows(run, mounted.path, "s", "--path", os.fspath(mounted / "a")) == a
    assert rows(run, mounted.path, "s", "--path", "a/one") == {("A", None, "a/one")}
    assert rows(run, mounted.path, "s", "--path", "a/deep", "--path", "ab") == {
        ("A", None, "a/deep/two"),
        ("A", None, "ab"),
    }
    assert len(rows(run, mounted.path, "s", "--path", ".")) == 5
    one_line(run("diff", mounted.path, "s", "--path", "nowhere", code=1), "/nowhere", "neither")
    one_line(run("diff", mounted.path, "s", "--path", "a/../b", code=2), "'..'")


def test_exit_codes_and_forms(mounted) -> None:
    run = mounted.run
    mounted.snapshot("s")
    assert run("diff", mounted.path, "s").stdout == ""
    run("diff", mounted.path, "s", "--exit-code")
    run("diff", mounted.path, "s", "--quiet")
    for name in ("one", "two"):
        (mounted / name).touch()
    run("diff", mounted.path, "s", code=0)
    assert run("diff", mounted.path, "s", "--exit-code", code=1).stdout.count("\n") == 2
    assert run("diff", mounted.path, "s", "--quiet", code=1).stdout == ""
    document = json.loads(run("diff", mounted.path, "s", "--json").stdout)
    assert (document["old"], document["new"], document["mounted"]) == (
        "s",
        None,
        os.fspath(mounted.path),
    )
    assert document["counts"] == {
        "added": 2,
        "removed": 0,
        "changed": 0,
        "retyped": 0,
        "renamed": 0,
    }
    lines = [
        json.loads(line)
        for line in run("diff", mounted.path, "s", "--json-lines").stdout.splitlines()
    ]
    assert sorted(line["path"] for line in lines) == ["one", "two"]
    assert run("diff", mounted.path, "s", "--null").stdout == "A one\0A two\0"
    for code, words in ((1, []), (2, ["--exit-code"]), (2, ["--quiet"])):
        one_line(
            run("diff", mounted.path, "nosuch", *words, code=code), "nosuch", "snapfs snapshot list"
        )
    one_line(run("diff", mounted.path, code=2), "A")
    one_line(run("diff", mounted.path / "missing", "s", code=1), "missing")
    one_line(run("diff", mounted.path, "s", "--json", "--null", code=2), "--null")
    one_line(run("diff", mounted.path, "s", ".", "more", code=2), "more")
    mounted.unmount()
    assert run("diff", mounted.image, "s", "--quiet", code=1).stdout == ""


def test_a_reader_that_stops_reading_is_complained_about(mounted, snapfs_command) -> None:
    mounted.snapshot("s")
    for number in range(3000):
        (mounted / f"a rather long name, so that a pipe is full soon, number {number}").touch()
    command = " ".join(snapfs_command("diff", mounted.path, "s", "--json-lines")) + " | head -1"
    result = subprocess.run(
        ["bash", "-c", command], check=True, capture_output=True, text=True, timeout=60
    )
    assert (result.stdout.count("\n"), result.stderr) == (1, "")


def readers(mounted) -> int:
    return json.loads(mounted.run("info", mounted.path, "--json").stdout)["counters"]["readers"]


def test_an_interrupt_leaves_the_daemon_comparing(
    mounted, wait_until, snapfs_command, start
) -> None:
    mounted.snapshot("s")
    (mounted / "directory").mkdir()
    for number in range(4000):
        (
            mounted
            / "directory"
            / f"a rather long name, so that a pipe is full soon, number {number}"
        ).touch()
    command = snapfs_command("diff", mounted.path, "s", "--json-lines")
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()  # it goes on while nobody reads, until the pipe is full
    wait_until(lambda: readers(mounted) == 1, what="the comparison")
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    message = process.stderr.read()
    assert process.wait(30) == 130
    assert message == "snapfs: interrupted\n"
    wait_until(lambda: readers(mounted) == 0, what="the end of the comparison")


def test_a_comparison_goes_on_while_everything_changes(
    mounted, tmp_path: Path, snapfs_command, start
) -> None:
    """What is compared is one state, whatever is changed, deleted and committed meanwhile."""
    for number in range(200):
        (mounted / f"file {number}").write_bytes(os.urandom(2000))
    mounted.snapshot("s")
    for number in range(200):
        (mounted / f"file {number}").write_bytes(os.urandom(2000))
    command = snapfs_command("diff", mounted.path, "s", "--json")
    for _ in range(5):
        with (tmp_path / "out").open("w+") as out:
            process = start(command, stdout=out, text=True)
            number = 0
            while process.poll() is None:
                with (mounted / "other").open("wb") as file:
                    file.write(os.urandom(50_000))
                    os.fsync(file.fileno())
                (mounted / "other").unlink()
                number += 1
            out.seek(0)
            found = json.load(out)["changes"]
        assert {one["path"] for one in found} - {"other"} == {
            f"file {number}" for number in range(200)
        }
        assert number


def test_a_read_only_mount_is_compared(mounted) -> None:
    (mounted / "file").write_text("1")
    mounted.snapshot("s")
    (mounted / "file").write_text("22")
    mounted.remount("ro")
    assert rows(mounted.run, mounted.path, "s") == {("M", None, "file")}
    mounted.remount("snapshot=s")
    assert rows(mounted.run, mounted.path, "s") == {("M", None, "file")}
