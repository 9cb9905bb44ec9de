"""Mount options, the kernel's numbers, errno: the parts of the FUSE layer that need no mount."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import stat

import pytest

from snapfs import errors
from snapfs.errors import UsageError
from snapfs.fuse.kernel.known import Known
from snapfs.fuse.mount.mounting import _escaped, fuse_options
from snapfs.fuse.options import MountOptions, parse_options
from snapfs.fuse.protocol.errno import ERRNO, errno_of
from snapfs.fuse.protocol.numbers import (
    KERNEL_ROOT,
    WRITER_BIT,
    Numbers,
)
from snapfs.ids import FIRST_INO, INO_LIMIT, MAX_INSTANCES, ROOT_INO


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (",,", {}),
        ("ro", {"read_only": True}),
        ("ro,rw", {"read_only": False}),
        ("restore=monday", {"restore": "monday"}),
        (
            "snapshot=2024-01-01T00:00:00Z,ro",
            {"snapshot": "2024-01-01T00:00:00Z", "read_only": True},
        ),
        ("snapdir=.zfs", {"snapdir": ".zfs"}),
        ("snapshow", {"snapshow": True}),
        ("commit=30", {"commit": 30.0}),
        ("commit=0.5", {"commit": 0.5}),
        ("mmp=10", {"mmp": 10.0}),
        ("mmp=off", {"mmp": None}),
        ("noxattr", {"xattr": False}),
        ("writeback=off", {"writeback": False}),
        ("writeback=off,writeback=on", {"writeback": True}),
        ("cache=1048576", {"cache": 1 << 20}),
        ("cache=3g,cache=32M", {"cache": 32 << 20}),
        ("polling=off", {"polling": False}),
        ("requests=pyfuse3", {"requests": "pyfuse3"}),
        ("allow_other", {"allow_other": True}),
        ("allow_root", {"allow_root": True}),
        ("uid=1000,gid=100,umask=022", {"uid": 1000, "gid": 100, "umask": 0o22}),
        ("fsname=backup=disk", {"fsname": "backup=disk"}),
        ("noatime", {"atime": False}),
        ("noatime,nodiratime", {"atime": False, "diratime": False}),
        ("nodiratime,diratime", {}),
        ("noatime,relatime", {"atime": True}),
        ("noexec,nosuid,nodev", {"kernel": frozenset({"noexec", "nosuid", "nodev"})}),
        ("noexec,exec,nosuid,suid,nodev,dev,sync,async", {}),
        ("autodelete=oldest", {"autodelete": "oldest"}),
        (
            "autodelete=oldest,autodelete=none,autodelete_below=7.5",
            {"autodelete": "none", "autodelete_below": 7.5},
        ),
        (
            "autodelete=oldest,autodelete_below=0%",
            {"autodelete": "oldest", "autodelete_below": 0.0},
        ),
        ("discard", {"discard": True}),
        ("discard,nodiscard", {"discard": False}),
        ("sync,dirsync", {"kernel": frozenset({"sync", "dirsync"})}),
    ],
)
def test_options_mean_what_they_say(text: str, expected: dict[str, object]) -> None:
    assert parse_options(text) == MountOptions(**expected)


def test_what_is_for_others_is_ignored() -> None:
    text = (
        "defaults,nofail,_netdev,user,users,owner,group,auto,noauto,nouser,dev,suid,exec,"
        "x-systemd.automount,comment=a b,user=me"
    )
    assert parse_options(text) == MountOptions()
    assert (
        parse_options("rw,relatime,user_id=0,group_id=0,default_permissions,max_read=131072")
        == MountOptions()
    )  # read back


#: mount(8), FILESYSTEM-INDEPENDENT MOUNT OPTIONS, that need no value: what is so, and what is not.
TRUE = (
    *(
        "async",
        "atime",
        "noatime",
        "auto",
        "noauto",
        "defaults",
        "dev",
        "nodev",
        "diratime",
        "nodiratime",
        "dirsync",
        "exec",
        "noexec",
    ),
    *(
        "group",
        "noiversion",
        "nomand",
        "_netdev",
        "nofail",
        "relatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "suid",
        "nosuid",
    ),
    *(
        "silent",
        "loud",
        "owner",
        "ro",
        "rw",
        "sync",
        "user",
        "nouser",
        "users",
        "symfollow",
        "acl",
        "user_xattr",
        "errors=remount-ro",
    ),
    *("noxattr,noacl,nouser_xattr", "noatime,norelatime", "norelatime,noatime"),
)
UNTRUE = (
    *(
        "iversion",
        "mand",
        "strictatime",
        "norelatime",
        "nosymfollow",
        "noacl",
        "nouser_xattr",
        "usrquota",
        "errors=panic",
        "nobarrier",
    ),
    *("noxattr,acl", "acl,noxattr", "noatime,norelatime,atime"),
)


@pytest.mark.parametrize("text", TRUE)
def test_what_is_so_anyway_is_refused(text: str) -> None:
    parse_options(text)


@pytest.mark.parametrize("text", UNTRUE)
def test_what_is_not_so_is_accepted_or_refused_without_its_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"mount option '([a-z_=]+)' cannot be: .") as caught:
        parse_options(text)
    assert any(f"'{word}'" in str(caught.value) for word in text.split(","))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("bogus", "bogus"),
        ("bogus=1", "bogus"),
        ("ro,nonsense,rw", "nonsense"),
        ("RO", "RO"),
        (" ro", "' ro'"),
        ("=1", "=1"),
        ("ro=1", "ro"),
        ("noatime=yes", "noatime"),
        ("restore", "restore"),
        ("restore=", "restore"),
        ("commit=", "commit"),
        ("commit=soon", "commit"),
        ("commit=0", "commit"),
        ("commit=-1", "commit"),
        ("commit=nan", "commit"),
        ("commit=inf", "commit"),
        ("commit=1e9", "commit"),
        ("mmp=0", "1 to 60, or 'off'"),
        ("mmp=61", "mmp"),
        ("mmp=nan", "mmp"),
        ("mmp=on", "mmp"),
        ("writeback=yes", "writeback"),
        ("cache=", "cache"),
        ("cache=much", "cache"),
        ("cache=1023K", "cache"),
        ("cache=2T", "cache"),
        ("cache=-1M", "cache"),
        ("cache=1.5M", "cache"),
        ("cache=\u0661M", "cache"),
        ("polling=sometimes", "polling"),
        ("requests=mine", "direct"),
        ("uid=root", "uid"),
        ("uid=-1", "uid"),
        ("uid=4294967295", "uid"),
        ("gid=1.5", "gid"),
        ("gid=\u0661", "gid"),
        ("umask=999", "umask"),
        ("umask=1000", "umask"),
        ("umask=0x1", "umask"),
        ("snapdir=a/b", "snapdir"),
        ("snapdir=..", "snapdir"),
        ("snapdir=" + "x" * 256, "snapdir"),
        ("ro,restore=x", "restore"),
        ("snapshot=x,restore=x", "exclude"),
        ("allow_root,allow_other", "exclude"),
        ("autodelete=newest", "oldest"),
        ("autodelete", "autodelete=oldest|none"),
        ("autodelete=oldest,autodelete_below=100", "autodelete_below"),
        ("autodelete=oldest,autodelete_below=-1", "autodelete_below"),
        ("autodelete=oldest,autodelete_below=nan", "autodelete_below"),
        ("autodelete=oldest,autodelete_below=much", "autodelete_below"),
        ("autodelete_below=5", "autodelete=oldest"),
    ],
)
def test_what_cannot_be_is_named(text: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(text)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "below"),
    [
        ("", None),
        ("autodelete=none,autodelete_below=5", None),
        ("autodelete=oldest", 5.0),
        ("autodelete=oldest,autodelete_below=0", 0.0),
        ("autodelete=oldest,ro", None),
        ("autodelete=oldest,snapshot=monday", None),
    ],
)
def test_snapshots_are_deleted_unasked(text: str, below: float | None) -> None:
    assert parse_options(text).deletes_below == below


def test_libfuse_gets_what_the_kernel_must_know_and_nothing_of_ours() -> None:
    words = fuse_options(
        parse_options("commit=1,snapdir=.zfs,uid=5,noatime,nodev,allow_other,restore=x"),
        "/images/a b,c\\d\u00e4.img",
    )
    dev = {"suid"} if os.geteuid() == 0 else set()
    name = "fsname=/images/a b\\054c\\134d\\303\\244.img"
    assert (
        words
        == {"default_permissions", "subtype=snapfs", name, "rw", "noatime", "nodev", "allow_other"}
        | dev
    )
    assert fuse_options(parse_options("ro,fsname=x"), "/image") >= {"fsname=x", "ro"}


def test_every_character_of_a_source_survives_the_option_parser() -> None:
    text = os.fsdecode(bytes(range(1, 256)))
    out, rest = bytearray(), _escaped(text)
    while rest:
        if rest[0] == "\\":
            out.append(int(rest[1:4], 8))
            rest = rest[4:]
        else:
            assert rest[0] not in ",\\"
            out += rest[0].encode("ascii")
            rest = rest[1:]
    assert os.fsdecode(bytes(out)) == text


# --- errno ----------------------------------------------------------------------------------------


#: What no request of the kernel can run into.
NOT_OF_FILES = (
    errors.VolumeBusy,
    errors.CopyError,
    errors.Occupied,
    errors.MountFailed,
    errors.UnmountFailed,
    errors.MountBusy,
    errors.MountCovered,
)


def test_every_exception_of_ours_has_an_errno() -> None:
    leaves = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SnapfsError)
    ]
    for kind in leaves:
        if kind not in (errors.SnapfsError, errors.SnapshotError, errors.FsError, *NOT_OF_FILES):
            assert any(parent in ERRNO for parent in kind.__mro__), kind


def test_the_errno_of_a_file_error_is_the_one_in_its_docstring() -> None:
    for kind in errors.FsError.__subclasses__():
        word = (kind.__doc__ or "").split()
        if word and word[0].rstrip(":").startswith("E"):
            assert ERRNO[kind] == getattr(errno, word[0].rstrip(":")), kind


def test_what_is_unexpected_is_eio_and_leaves_its_trace_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "snapfs"):
        try:
            raise ZeroDivisionError("inside")
        except ZeroDivisionError as exc:
            assert errno_of(exc, "mkdir") == errno.EIO
    assert "mkdir" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_damage_is_logged_without_a_trace_and_common_errors_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "snapfs"):
        assert errno_of(errors.NotFound("x"), "lookup") == errno.ENOENT
        assert caplog.text == ""
        assert errno_of(errors.CorruptBlock("block 7"), "read") == errno.EIO
    assert "block 7" in caplog.text
    assert "Traceback" not in caplog.text
    assert errno_of(errors.DeviceFull("x"), "write") == errno.ENOSPC


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("root_view", [0, 1, MAX_INSTANCES])
def test_numbers_come_back_as_they_went(root_view: int) -> None:
    numbers = Numbers(root_view)
    assert numbers.node(root_view, ROOT_INO) == KERNEL_ROOT
    seen = set()
    for view_id in {root_view, 0, 5, MAX_INSTANCES}:
        for ino in (ROOT_INO, FIRST_INO, INO_LIMIT - 1):
            node = numbers.node(view_id, ino)
            snapdir = numbers.snapdir(node)
            assert numbers.split(node) == numbers.split(snapdir) == (view_id, ino)
            assert (numbers.is_snapdir(node), numbers.is_snapdir(snapdir)) == (False, True)
            assert numbers.covered(snapdir) == numbers.covered(node) == node
            assert 0 < node < snapdir < WRITER_BIT
            seen |= {node, snapdir}
    assert len(seen) == 2 * 3 * len({root_view, 0, 5, MAX_INSTANCES})
    assert numbers.node(root_view, FIRST_INO) == FIRST_INO, (
        "in all mounts of single views a file has one number"
    )


# --- what the kernel knows ------------------------------------------------------------------------


def test_lookup_counts_are_exact_and_holds_come_once() -> None:
    held: list[tuple[int, int]] = []
    known = Known(Numbers(), lambda view_id, ino: held.append((view_id, ino)))
    for _ in range(3):
        known.add(20)
    assert held == [(0, 20)]
    assert not known.drop(20, 2)
    assert 20 in known
    assert known.drop(20, 1)
    assert 20 not in known
    # The kernel comes back before the core has been told: it holds the inode still.
    known.add(20)
    assert held == [(0, 20)]
    assert known.drop(20, 1)
    known.released(20)
    assert not known.drop(20, 1)
    known.add(20)
    assert held == [(0, 20)] * 2


def test_a_view_is_in_use_while_anything_of_it_is_known() -> None:
    numbers = Numbers()
    known = Known(numbers, lambda *_: None)
    nodes = [numbers.node(7, ino) for ino in (1, 20)]
    nodes.append(numbers.snapdir(nodes[1]))
    for node in nodes:
        known.add(node)
    known.add(20)
    assert known.views_in_use() == {0, 7}
    assert set(known.nodes_of(7)) == set(nodes)
    for node in nodes:
        assert known.views_in_use() == {0, 7}
        assert known.drop(node, 1)
        known.released(node)
    assert known.views_in_use() == {0}


def test_all_names_of_a_file_are_remembered_until_it_is_forgotten() -> None:
    known = Known(Numbers(), lambda *_: None)
    known.add(20)
    for name in (b"a", b"a", b"b", b"c"):
        known.name(20, stat.S_IFREG | 0o644, 1, name)
    known.name(21, stat.S_IFDIR | 0o755, 1, b"directory")
    assert known.names(20) == {(1, b"a"), (1, b"b"), (1, b"c")}
    assert known.names(21) == set()
    known.drop(20, 1)
    assert known.names(20) == set()
