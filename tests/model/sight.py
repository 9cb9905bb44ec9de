"""What can be seen through a mount: by name, without listing anything first, and then by listing.

A listing tells the kernel what is there, and so mends what it believes. Who looks for wrong beliefs
must look up every name that was ever used, and only then list.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import stat
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

#: How a thing is looked at: each is a system call of its own to the kernel's memory, or two.
Facts = dict[str, str]
Sight = dict[str, Facts]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def look(top: Path, paths: Iterable[str], seed: int) -> Sight:
    """Each of the paths, there or not, in an order that the seed gives: what is below may come
    before what is above.
    """
    dice = random.Random(seed)
    order = sorted(paths)
    dice.shuffle(order)
    return {path: _facts(top / path if path else top, dice) for path in order}


def directories(sight: Sight) -> list[str]:
    """What has a listing."""
    return sorted(path for path, facts in sight.items() if facts["stat"].startswith("d"))


def listings(top: Path, paths: Iterable[str]) -> dict[str, str]:
    """The names in each of these directories."""
    return {
        path: _outcome(lambda path=path: " ".join(sorted(os.listdir(top / path if path else top))))
        for path in sorted(paths)
    }


def _facts(place: Path, dice: random.Random) -> Facts:
    senses: list[tuple[str, Callable[[], str]]] = [
        ("stat", lambda: status_text(os.lstat(place), with_times=place.name != ".snap")),
        ("content", lambda: _content(place)),
        ("access ACL", lambda: _attribute(place, ACCESS)),
        ("default ACL", lambda: _attribute(place, DEFAULT)),
        (
            "attributes",
            lambda: " ".join(
                f"{name}={_attribute(place, name)}"
                for name in sorted(os.listxattr(place, follow_symlinks=False))
            ),
        ),
    ]
    dice.shuffle(senses)
    return {name: _outcome(sense) for name, sense in senses}


def _outcome(sense: Callable[[], str]) -> str:
    try:
        return sense()
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, str(exc.errno))


def status_text(status: os.stat_result, *, with_times: bool) -> str:
    """All of it that two mounts of the same bytes must agree about: not the device, and not when it
    was read.
    """
    times = f" mtime {status.st_mtime_ns} ctime {status.st_ctime_ns}" if with_times else ""
    return (
        f"{stat.filemode(status.st_mode)} inode {status.st_ino:#x} links "
        f"{status.st_nlink} owner {status.st_uid}:{status.st_gid} "
        f"size {status.st_size} device {status.st_rdev}{times}"
    )


def _content(place: Path) -> str:
    mode = os.lstat(place).st_mode
    if stat.S_ISLNK(mode):
        return "-> " + os.readlink(place)
    if stat.S_ISREG(mode):
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return digest(os.read(descriptor, 1 << 20))
        finally:
            os.close(descriptor)
    return ""


def digest(data: bytes) -> str:
    """Content, short enough for a message."""
    return f"{len(data)} bytes {data[:8]!r} {hashlib.sha256(data).hexdigest()[:8]}"


def _attribute(place: Path, name: str) -> str:
    return os.getxattr(place, name, follow_symlinks=False).hex()


def _is_right(sense: str, facts: str, right: str, users: Collection[str]) -> bool:
    if facts == right or sense != "stat" or not right.startswith("-"):
        return facts == right
    rest, _, inode = facts.partition(" inode ")
    # With its writeback cache the kernel stamps what is written: of files in use it keeps a ctime
    # of its own, which nobody can set.
    (before, _, own), (after, _, stored) = facts.rpartition(" "), right.rpartition(" ")
    return (
        rest.startswith("-")
        and inode.partition(" ")[0] in users
        and before == after
        and int(own) >= int(stored)
    )


def differences(found: Sight, right: Sight, users: Collection[str] = ()) -> list[str]:
    """A line for each thing in which a sight is not what it should be; not of what is below another
    thing than it should be below.

    ``users`` are the numbers of files that somebody uses, as a sight has them.
    """
    lines: list[str] = []
    other: set[str] = set()
    for path in sorted(found, key=lambda each: (each.count("/"), each)):
        if any(above in other for above in _above(path)):
            continue
        wrong = {
            sense: facts
            for sense, facts in found[path].items()
            if not _is_right(sense, facts, right[path][sense], users)
        }
        if "stat" in wrong and path:
            other.add(path)
            wrong = {"stat": wrong["stat"]}
        lines += [
            f"{path or '.'}: {sense} is {facts}, on a fresh mount {right[path][sense]}"
            for sense, facts in wrong.items()
        ]
    return lines


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
