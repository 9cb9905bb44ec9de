"""Two users against one another and against root, on root's mount that lets others in: who may
write a directory stops nobody else.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from snapfs.fuse.driving.allowance import AT_ONCE

USER, OTHER = 1001, 1002

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else"),
    pytest.mark.volume(options="allow_other"),
]

#: A program runs in a directory of a mount as somebody else, and prints what it found out as JSON.
AS_SOMEBODY = """
import ctypes, errno, json, os, stat, sys
os.chdir(sys.argv[1])
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
def error(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except OSError as exc:
        return exc.errno
    return 0
"""


def as_user(uid: int, place: Path, program: str) -> object:
    command = [sys.executable, "-I", "-S", "-c", AS_SOMEBODY + program, str(place), str(uid)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout) if result.stdout else None


@pytest.fixture
def homes(mounted) -> Callable[[int], Path]:
    for uid in (USER, OTHER):
        (mounted / f"u{uid}").mkdir(mode=0o755)
        os.chown(mounted / f"u{uid}", uid, uid)
    return lambda uid: mounted / f"u{uid}"


def test_a_name_that_root_needs_is_taken(mounted, homes) -> None:
    """Names of snapshots are one space: a user who has one that root's policy needs has another
    from then on.
    """
    as_user(USER, homes(USER), "os.mkdir('.snap/nightly-1'); os.mkdir('.snap/nightly-1~1001')")
    assert os.listdir(homes(USER) / ".snap") != []
    shown = (homes(USER) / ".snap" / "nightly-1").stat().st_ino
    mounted.snapshot("nightly-1")
    assert os.listdir(mounted / ".snap") == ["nightly-1"]
    assert sorted(os.listdir(homes(USER) / ".snap")) == [
        "nightly-1",
        "nightly-1~1001",
        "nightly-1~1001-2",
    ]
    assert (
        (homes(USER) / ".snap" / "nightly-1~1001-2").stat().st_ino
        == shown
        != (homes(USER) / ".snap" / "nightly-1").stat().st_ino
    )
    # The other way round nobody gives way.
    program = (
        "print(json.dumps([error(os.mkdir, '.snap/nightly-1'), error(os.rmdir, "
        "'.snap/nightly-1')]))"
    )
    assert as_user(OTHER, homes(OTHER), program) == [errno.EEXIST, errno.EPERM]
    (homes(OTHER) / ".snap" / "nightly-2").mkdir()
    assert (
        as_user(USER, homes(USER), "print(json.dumps(error(os.mkdir, '.snap/nightly-2')))")
        == errno.EEXIST
    )


def test_what_a_user_designates_keeps_a_policy_from_being_followed(mounted, homes) -> None:
    """C8: as many directories as a snapshot has places for, and more."""
    program = """
for number in range(130):
    os.mkdir(f"d{number}")
    os.setxattr(f"d{number}", "user.snapfs.designate", b"nightly")
"""
    as_user(USER, homes(USER), program)
    (mounted / "own").mkdir()
    os.setxattr(mounted / "own", "user.snapfs.designate", b"nightly")
    result = mounted.run(
        "snapshot", "create", mounted.path, "n", "--designated", "nightly", "--json"
    )
    document = json.loads(result.stdout)
    assert document["left_out"]
    assert "no room for" in result.stderr
    assert os.listdir(mounted / "own" / ".snap") == ["n"]


def test_a_user_makes_snapshots_without_end(mounted, homes) -> None:
    program = f"""
done = 0
while done < 2 * {AT_ONCE} and not (code := error(os.mkdir, f".snap/s{{done}}")):
    done += 1
print(json.dumps([done, code]))
"""
    done, code = as_user(USER, homes(USER), program)  # type: ignore[misc]
    assert code == errno.EBUSY
    assert AT_ONCE <= done < 2 * AT_ONCE
    assert as_user(OTHER, homes(OTHER), "print(json.dumps(error(os.mkdir, '.snap/other')))") == 0
    mounted.snapshot("roots")


def test_links_and_renames_lead_out_of_a_snapshot(mounted, homes) -> None:
    """Another view is another filesystem to link(2) and rename(2), also for an exchange and for a
    directory; nothing has moved after it.
    """
    program = """
rename2 = ctypes.CDLL(None, use_errno=True).renameat2
def exchange(one, other):
    if rename2(-100, one.encode(), -100, other.encode(), 2):
        raise OSError(ctypes.get_errno(), "")
os.mkdir("d"); open("d/f", "w").write("then"); open("f", "w").write("then")
os.mkdir(".snap/s"); os.mkdir(".snap/t")
found = []
for one, other in ((".snap/s/f", "g"), ("f", ".snap/s/g"), (".snap/s/f", ".snap/t/g"),
(".snap/s/d", "e"), ("d", ".snap/s/e")):
    found += [error(os.rename, one, other), error(exchange, one, other.replace("g",
    "f").replace("e", "d"))]
    if not os.path.isdir(one):
        found.append(error(os.link, one, other))
print(json.dumps([sorted(set(found)), sorted(os.listdir(".")), sorted(os.listdir(".snap/s")),
open("f").read()]))
"""
    assert as_user(USER, homes(USER), program) == [[errno.EXDEV], ["d", "f"], ["d", "f"], "then"]


def test_the_owner_of_a_directory_gets_at_others_files_by_a_snapshot_of_it(mounted, homes) -> None:
    """In a writable snapshot the permissions of then count, and what is changed there changes
    nothing else.
    """
    shared = homes(USER) / "shared"
    shared.mkdir(mode=0o777)
    os.chown(shared, USER, USER)
    shared.chmod(0o777)
    as_user(
        OTHER,
        shared,
        "open('secret', 'w').write('secret'); os.chmod('secret', 0o600); os.mkdir('closed', 0o700)",
    )
    program = """
os.mkdir(".snap/s")
found = [error(open, ".snap/s/secret"), error(open, ".snap/s/secret", "w"), error(os.truncate,
".snap/s/secret", 0),
         error(os.chmod, ".snap/s/secret", 0o666), error(os.chown, ".snap/s/secret", 1001, 1001),
         error(os.listdir, ".snap/s/closed"),
         error(os.setxattr, ".snap/s/secret", "user.x", b"x"), error(os.listdir, "closed/.snap/s"),
         error(os.listdir, "closed/.snap")]
os.unlink(".snap/s/secret")  # as in the directory itself
print(json.dumps(sorted(set(found))))
"""
    found = as_user(USER, shared, program)
    assert set(found) <= {errno.EACCES, errno.EPERM}  # type: ignore[arg-type]
    assert (shared / "secret").read_text() == "secret"
    # The other one can neither make nor change snapshots there.
    program = (
        "print(json.dumps([error(os.mkdir, '.snap/t'), error(os.rmdir, '.snap/s'), "
        "error(os.rename, '.snap/s', '.snap/t')]))"
    )
    assert set(as_user(OTHER, shared, program)) <= {errno.EACCES, errno.EPERM}  # type: ignore[arg-type]
    assert os.listdir(shared / ".snap") == ["s"]


@pytest.mark.volume(options="allow_other", size="16M")
def test_a_user_fills_the_volume(mounted, homes) -> None:
    """With data, then with empty files: others cannot write, but remove, and nothing that was
    stored is lost; then it goes on.
    """
    (mounted / "own").write_text("own")
    as_user(OTHER, homes(OTHER), "[open(f'f{n}', 'w').write('x' * 100000) for n in range(3)]")
    mounted.snapshot("before")
    program = """
code = 0
try:
    with open("big", "wb", buffering=0) as file:
        while True:
            os.write(file.fileno(), b"x" * 65536)
            os.fsync(file.fileno())
except OSError as exc:
    code = exc.errno
made = 0
while made < 200000 and not (full := error(os.mknod, f"empty{made}", 0o100600)):
    made += 1
print(json.dumps([code, made, full]))
"""
    code, made, full = as_user(USER, homes(USER), program)  # type: ignore[misc]
    assert (code, full) == (errno.ENOSPC, errno.ENOSPC)
    assert made < 200_000
    assert (mounted / "own").read_text() == "own"
    as_user(OTHER, homes(OTHER), "os.unlink('f0'); assert open('f1').read() == 'x' * 100000")
    mounted.run("snapshot", "delete", mounted.path, "before")
    as_user(USER, homes(USER), "[os.unlink(name) for name in os.listdir('.') if name != '.snap']")
    as_user(OTHER, homes(OTHER), "open('again', 'w').write('x' * 1000000)")
    mounted.snapshot("after")
    assert json.loads(mounted.run("info", mounted.path, "--json").stdout)["read_only"] in (
        False,
        None,
    )


def test_a_user_unmounts_what_root_has_mounted(mounted, homes) -> None:
    for lazy in ((), ("-z",)):
        command = [
            "setpriv",
            f"--reuid={USER}",
            f"--regid={USER}",
            "--clear-groups",
            "fusermount3",
            "-u",
            *lazy,
            mounted.path,
        ]
        assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode != 0
    assert os.path.ismount(mounted.path)
    assert os.listdir(mounted.path) != []
