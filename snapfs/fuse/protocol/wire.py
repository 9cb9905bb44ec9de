"""The kernel's FUSE protocol as bytes: requests taken apart, replies and notifications put
together. Layouts as in ``linux/fuse.h``.

Nothing here knows a filesystem, and nothing waits.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import pyfuse3

#: The protocol that is spoken. Older kernels have other layouts; see ``MIN_KERNEL``.
MAJOR: Final = 7
MINOR: Final = 38

#: Linux, as (version, patch level), from which on all layouts here are right.
MIN_KERNEL: Final = (5, 11)

#: Bytes of the largest write, and of the largest read; in pages for the kernel.
MAX_WRITE: Final = 1 << 20
MAX_PAGES: Final = MAX_WRITE // 4096

#: What a request without data takes at most: headers, two names, an extended attribute.
HEAD_ROOM: Final = 1 << 17


class Op(enum.IntEnum):
    """Requests that are understood. Others are answered with ENOSYS, and
    the kernel does without.
    """

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44
    RENAME2 = 45


#: Requests that nobody waits for: an answer would be taken for another request's, or refused.
UNANSWERED: Final = frozenset({Op.FORGET, Op.BATCH_FORGET})


def name_of(opcode: int) -> str:
    """The name of a request, for logs; of one that is not understood, its number."""
    try:
        return Op(opcode).name.lower()
    except ValueError:
        return f"operation-{opcode}"


class Init(enum.IntFlag):
    """What both sides can do, in the exchange that begins a mount."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    HANDLE_KILLPRIV_V2 = 1 << 28


class Set:
    """Which attributes a SETATTR sets: bits, and no ``IntFlag``, whose arithmetic would cost as
    much as all else of the request.
    """

    MODE: Final = 1 << 0
    UID: Final = 1 << 1
    GID: Final = 1 << 2
    SIZE: Final = 1 << 3
    ATIME: Final = 1 << 4
    MTIME: Final = 1 << 5
    FH: Final = 1 << 6
    CTIME: Final = 1 << 10
    KILL_SUIDGID: Final = 1 << 11


#: In a SETATTR: more than times.
SET_MORE: Final = Set.MODE | Set.UID | Set.GID | Set.SIZE

#: In a SETATTR: times that somebody sets; without these and the others it takes set-id bits away,
#: and nothing else.
SET_TIMES: Final = Set.ATIME | Set.MTIME

#: In the flags of GETATTR: there is a handle.
GETATTR_FH: Final = 1 << 0

#: In the flags of WRITE, and of OPEN and CREATE: the caller may not keep set-id bits.
WRITE_KILL_SUIDGID: Final = 1 << 2
OPEN_KILL_SUIDGID: Final = 1 << 0

#: In the flags of a reply to OPEN: what the kernel has cached of the file is right.
FOPEN_KEEP_CACHE: Final = 1 << 1

#: The type of what CREATE makes.
S_IFREG: Final = 0o100000

NOTIFY_INVAL_INODE: Final = 2
NOTIFY_INVAL_ENTRY: Final = 3
NOTIFY_INC_EPOCH: Final = 8
NOTIFY_PRUNE: Final = 9

#: In the flags of INVAL_ENTRY: the kernel looks the name up again, and keeps what it has there if
#: that is the same (Linux 6.2).
EXPIRE_ONLY: Final = 1 << 0

#: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
IN_HEADER: Final = struct.Struct("<IIQQIIIHH")
#: len, error, unique
OUT_HEADER: Final = struct.Struct("<IiQ")

#: major, minor, max_readahead, flags
INIT_IN: Final = struct.Struct("<IIII")
#: The same, max_background, congestion_threshold, max_write, time_gran, max_pages, map_alignment,
#: flags2, and what is unused
INIT_OUT: Final = struct.Struct("<IIIIHHIIHHI28x")

#: nlookup; and (nodeid, nlookup) after count, dummy
FORGET_IN: Final = struct.Struct("<Q")
BATCH_FORGET_IN: Final = struct.Struct("<II")
FORGET_ONE: Final = struct.Struct("<QQ")

#: flags, fh
GETATTR_IN: Final = struct.Struct("<I4xQ")
#: valid, fh, size, lock_owner, atime, mtime, ctime (seconds, then nanoseconds), mode, uid, gid
SETATTR_IN: Final = struct.Struct("<I4xQQQqqqIIII4xII4x")
#: mode, rdev, umask
MKNOD_IN: Final = struct.Struct("<III4x")
#: mode, umask
MKDIR_IN: Final = struct.Struct("<II")
#: newdir; newdir, flags; oldnodeid
RENAME_IN: Final = struct.Struct("<Q")
RENAME2_IN: Final = struct.Struct("<QI4x")
LINK_IN: Final = struct.Struct("<Q")
#: flags, open_flags; flags, mode, umask, open_flags
OPEN_IN: Final = struct.Struct("<II")
CREATE_IN: Final = struct.Struct("<IIII")
#: fh, open_flags
OPEN_OUT: Final = struct.Struct("<QI4x")
#: fh; fh, fsync_flags
RELEASE_IN: Final = struct.Struct("<Q")
FSYNC_IN: Final = struct.Struct("<QI4x")
#: fh, offset, size, read_flags or write_flags, lock_owner, flags
READ_IN: Final = struct.Struct("<QQIIQI4x")
WRITE_IN: Final = READ_IN
#: size
WRITE_OUT: Final = struct.Struct("<I4x")
#: size, flags
SETXATTR_IN: Final = struct.Struct("<II")
#: size
GETXATTR_IN: Final = struct.Struct("<I4x")
GETXATTR_OUT: Final = GETXATTR_IN
#: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize
STATFS_OUT: Final = struct.Struct("<QQQQQIII28x")

_ATTR: Final = "QQQqqqIIIIIIIIII"
#: attr_valid (seconds, nanoseconds), then attributes
ATTR_OUT: Final = struct.Struct("<QI4x" + _ATTR)
#: nodeid, generation, entry_valid, attr_valid (seconds), the same (nanoseconds), then attributes
ENTRY_OUT: Final = struct.Struct("<QQQQII" + _ATTR)
#: The header as well, for the replies that are sent most.
ATTR_REPLY: Final = struct.Struct("<IiQQI4x" + _ATTR)
ENTRY_REPLY: Final = struct.Struct("<IiQQQQQII" + _ATTR)
CREATE_REPLY: Final = struct.Struct("<IiQQQQQII" + _ATTR + "QI4x")
OPEN_REPLY: Final = struct.Struct("<IiQQI4x")
WRITE_REPLY: Final = struct.Struct("<IiQI4x")
#: ino, off, namelen, type
DIRENT: Final = struct.Struct("<QQII")

#: ino, off, len; parent, namelen, flags
INVAL_INODE_OUT: Final = struct.Struct("<Qqq")
INVAL_ENTRY_OUT: Final = struct.Struct("<QII")

#: count, padding, spare; the inodes follow
PRUNE_OUT: Final = struct.Struct("<IIQ")

_SECOND: Final = 1_000_000_000

#: A part of a message.
Piece = bytes | bytearray | memoryview


class RequestCaller(NamedTuple):
    """Who asks, as ``pyfuse3.RequestContext`` tells it.

    ``keeps_set_id``: whether a change of the content leaves set-id bits alone; None where the
    kernel does not say. ``unique``: the number of the request; 0 for one that has waited.
    """

    uid: int
    gid: int
    pid: int
    keeps_set_id: bool | None = None
    unique: int = 0


def attributes(entry: pyfuse3.EntryAttributes) -> tuple[int, ...]:
    """What ``ATTR_OUT`` and ``ENTRY_OUT`` end with."""
    atime, atime_ns = divmod(entry.st_atime_ns, _SECOND)
    mtime, mtime_ns = divmod(entry.st_mtime_ns, _SECOND)
    ctime, ctime_ns = divmod(entry.st_ctime_ns, _SECOND)
    return (
        entry.st_ino, entry.st_size, entry.st_blocks, atime, mtime, ctime, atime_ns, mtime_ns,
        ctime_ns,
        entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid, entry.st_rdev & 0xFFFF_FFFF,
        entry.st_blksize, 0,
    )  # fmt: skip


def _seconds(time: float) -> tuple[int, int]:
    whole = int(time)
    return whole, int((time - whole) * _SECOND)


def attr_out(entry: pyfuse3.EntryAttributes) -> bytes:
    """The reply to GETATTR and SETATTR."""
    return ATTR_OUT.pack(*_seconds(entry.attr_timeout), *attributes(entry))


def entry_out(entry: pyfuse3.EntryAttributes) -> bytes:
    """The reply to LOOKUP and to what makes an inode."""
    (name, name_ns), (attr, attr_ns) = _seconds(entry.entry_timeout), _seconds(entry.attr_timeout)
    return ENTRY_OUT.pack(
        entry.st_ino, entry.generation, name, attr, name_ns, attr_ns, *attributes(entry)
    )


def open_out(info: pyfuse3.FileInfo) -> bytes:
    """The reply to OPEN, and to CREATE after the entry."""
    return OPEN_OUT.pack(info.fh, FOPEN_KEEP_CACHE if info.keep_cache else 0)


def reply(unique: int, *pieces: Piece) -> list[Piece]:
    """An answer, its header first."""
    return [OUT_HEADER.pack(OUT_HEADER.size + sum(map(len, pieces)), 0, unique), *pieces]


def refusal(unique: int, error: int) -> list[Piece]:
    """An answer that is an errno."""
    return [OUT_HEADER.pack(OUT_HEADER.size, -error, unique)]


class Rows:
    """The reply to READDIRPLUS, filled up to the size that the kernel asked for."""

    def __init__(self, size: int) -> None:
        self._room = size
        self.data = bytearray()

    def add(self, name: bytes, entry: pyfuse3.EntryAttributes, cookie: int) -> bool:
        """One more; False when there is no room for it."""
        return self.add_packed(name, entry_out(entry), entry.st_ino, entry.st_mode, cookie)

    def add_packed(self, name: bytes, entry: bytes, node: int, mode: int, cookie: int) -> bool:
        """The same with an entry as ``ENTRY_OUT`` has it."""
        length = ENTRY_OUT.size + DIRENT.size + len(name)
        padding = -length % 8
        if length + padding > self._room:
            return False
        self._room -= length + padding
        self.data += b"".join(
            (entry, DIRENT.pack(node, cookie, len(name), mode >> 12), name, bytes(padding))
        )
        return True


def names_in(body: memoryview) -> list[bytes]:
    """The names that a request ends with, each with a zero behind it."""
    return bytes(body).split(b"\0")[:-1]
