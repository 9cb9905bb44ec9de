"""A record in words: which operation, on which inode, with which arguments, and what came of it.

What a record does not have, because it was cut or the kernel is a newer one, is left out; nothing
here fails.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from snapfs.fuse.protocol import wire
from snapfs.fuse.protocol.wire import Op, Set
from snapfs.fuse.tracing.record import Record

#: Names and values in the order in which they are shown. Texts are names; bytes that are no text
#: are escaped.
Words = dict[str, Any]

#: Flags of open(2) that are worth a name.
_OPEN_FLAGS: Final = {
    name: getattr(os, name)
    for name in (
        "O_APPEND",
        "O_CREAT",
        "O_DIRECT",
        "O_DIRECTORY",
        "O_DSYNC",
        "O_EXCL",
        "O_NOATIME",
        "O_NOFOLLOW",
        "O_NONBLOCK",
        "O_TRUNC",
    )
}
_ACCESS: Final = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}

_RENAME_FLAGS: Final = {"NOREPLACE": 1 << 0, "EXCHANGE": 1 << 1, "WHITEOUT": 1 << 2}


class Described(NamedTuple):
    """A record for people and programs. ``error``: the name of an errno, or None."""

    operation: str
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    arguments: Words
    error: str | None
    result: Words


def describe(record: Record) -> Described:
    """All that a record says."""
    _, opcode, unique, node, uid, gid, pid, _, _ = wire.IN_HEADER.unpack_from(record.request)
    arguments = _read(_ARGUMENTS.get(opcode), record.request[wire.IN_HEADER.size :])
    if opcode in (Op.WRITE, Op.READ) and record.checksum is not None:
        checked = {"checksum": f"{record.checksum:08x}"}
        arguments |= checked if opcode == Op.WRITE else {}
    error = errno.errorcode.get(record.error, str(record.error)) if record.error else None
    result = {} if error else result_of(opcode, record.request, record.reply)
    if opcode == Op.READ and record.checksum is not None:
        result = {"length": record.length, "checksum": f"{record.checksum:08x}"}
    elif opcode == Op.READDIRPLUS and not error and record.reply_length:
        result = {"length": record.reply_length}
    if record.is_cut:
        arguments["cut"] = True
    return Described(wire.name_of(opcode), unique, node, uid, gid, pid, arguments, error, result)


def result_of(opcode: int, request: bytes, reply: bytes) -> Words:
    """What a reply says that is no error."""
    if opcode in (Op.GETXATTR, Op.LISTXATTR) and not _room(request):
        return _read(_size, reply)
    return _read(_RESULTS.get(opcode), reply)


def _room(request: bytes) -> int:
    """How long the kernel lets a value be; 0 when it asks how long it is."""
    try:
        (size,) = wire.GETXATTR_IN.unpack_from(request, wire.IN_HEADER.size)
    except struct.error:
        return 0
    return int(size)


def _read(reader: Callable[[bytes], Words] | None, data: bytes) -> Words:
    try:
        return {} if reader is None else reader(data)
    except (struct.error, ValueError, IndexError):
        return {"bytes": data[:64].hex()}


def text_of(name: bytes) -> str:
    """A name as text, from which ``os.fsencode`` makes the name again."""
    return name.decode("utf-8", "surrogateescape")


def _names(data: bytes, number: int) -> list[str]:
    found = [text_of(name) for name in data.split(b"\0")[:number]]
    if len(found) < number:
        raise ValueError("a name is missing")
    return found


def _flags(value: int, names: dict[str, int]) -> str:
    known = [name for name, flag in names.items() if value & flag == flag]
    rest = value & ~sum(names[name] for name in known)
    return "|".join(known + ([hex(rest)] if rest else []))


def open_flags(value: int) -> str:
    """The flags of open(2) by their names."""
    rest = value & ~os.O_ACCMODE & ~0o100000  # O_LARGEFILE, which the kernel always says
    more = _flags(rest, _OPEN_FLAGS)
    return _ACCESS.get(value & os.O_ACCMODE, "O_ACCMODE") + (f"|{more}" if more else "")


# --- arguments ---


def _name(data: bytes) -> Words:
    (name,) = _names(data, 1)
    return {"name": name}


def _after(
    layout: struct.Struct, *fields: str, names: tuple[str, ...] = ()
) -> Callable[[bytes], Words]:
    """A reader of a structure's first fields that have a name, and of the names that follow."""

    def read(data: bytes) -> Words:
        values = layout.unpack_from(data)
        words: Words = {field: value for field, value in zip(fields, values, strict=False) if field}
        return words | dict(
            zip(names, _names(data[layout.size :], len(names)) if names else (), strict=True)
        )

    return read


def _moded(layout: struct.Struct, *fields: str) -> Callable[[bytes], Words]:
    read = _after(layout, *fields, names=("name",))

    def moded(data: bytes) -> Words:
        words = read(data)
        name = words.pop("name")
        if "flags" in words:
            words["flags"] = open_flags(words["flags"])
        return {"name": name, **words, "mode": f"{words['mode']:o}"}

    return moded


def _getattr(data: bytes) -> Words:
    if not data:
        return {}
    flags, handle = wire.GETATTR_IN.unpack_from(data)
    return {"handle": handle} if flags & wire.GETATTR_FH else {}


def _setattr(data: bytes) -> Words:
    (
        valid, handle, size, _, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, uid, gid,
    ) = wire.SETATTR_IN.unpack_from(data)  # fmt: skip
    every = (
        (Set.MODE, "mode", f"{mode:o}"),
        (Set.UID, "uid", uid),
        (Set.GID, "gid", gid),
        (Set.SIZE, "size", size),
        (Set.ATIME, "atime", _time(atime, atime_ns)),
        (Set.MTIME, "mtime", _time(mtime, mtime_ns)),
        (Set.CTIME, "ctime", _time(ctime, ctime_ns)),
        (Set.FH, "handle", handle),
        (Set.KILL_SUIDGID, "kill_suidgid", True),
    )
    return {name: value for flag, name, value in every if valid & flag}


def _time(seconds: int, nanoseconds: int) -> str:
    return f"{seconds}.{nanoseconds:09d}"


def _symlink(data: bytes) -> Words:
    name, target = _names(data, 2)
    return {"name": name, "target": target}


def _renamed(layout: struct.Struct) -> Callable[[bytes], Words]:
    def renamed(data: bytes) -> Words:
        new, *flags = layout.unpack_from(data)
        name, new_name = _names(data[layout.size :], 2)
        words = {"name": name, "new_parent": new, "new_name": new_name}
        return words | ({"flags": _flags(flags[0], _RENAME_FLAGS)} if flags and flags[0] else {})

    return renamed


def _opened(data: bytes) -> Words:
    flags, _ = wire.OPEN_IN.unpack_from(data)
    return {"flags": open_flags(flags)}


def _moved(data: bytes) -> Words:
    handle, offset, size, *_ = wire.READ_IN.unpack_from(data)
    return {"handle": handle, "offset": offset, "size": size}


def _setxattr(data: bytes) -> Words:
    size, flags = wire.SETXATTR_IN.unpack_from(data)
    (name,) = _names(data[wire.SETXATTR_IN.size :], 1)
    named = (
        {"flags": _flags(flags, {"CREATE": os.XATTR_CREATE, "REPLACE": os.XATTR_REPLACE})}
        if flags
        else {}
    )
    return {"name": name, "size": size, **named}


def _forgotten(data: bytes) -> Words:
    count, _ = wire.BATCH_FORGET_IN.unpack_from(data)
    start, size = wire.BATCH_FORGET_IN.size, wire.FORGET_ONE.size
    whole = data[start : start + (len(data) - start) // size * size]
    return {
        "lookups": {
            str(node): lookups for node, lookups in list(wire.FORGET_ONE.iter_unpack(whole))[:count]
        }
    }


_ARGUMENTS: Final[dict[int, Callable[[bytes], Words]]] = {
    Op.LOOKUP: _name,
    Op.FORGET: _after(wire.FORGET_IN, "lookups"),
    Op.BATCH_FORGET: _forgotten,
    Op.GETATTR: _getattr,
    Op.SETATTR: _setattr,
    Op.SYMLINK: _symlink,
    Op.MKNOD: _moded(wire.MKNOD_IN, "mode", "rdev", "umask"),
    Op.MKDIR: _moded(wire.MKDIR_IN, "mode", "umask"),
    Op.CREATE: _moded(wire.CREATE_IN, "flags", "mode", "umask"),
    Op.UNLINK: _name,
    Op.RMDIR: _name,
    Op.RENAME: _renamed(wire.RENAME_IN),
    Op.RENAME2: _renamed(wire.RENAME2_IN),
    Op.LINK: _after(wire.LINK_IN, "node", names=("name",)),
    Op.OPEN: _opened,
    Op.OPENDIR: _opened,
    Op.READ: _moved,
    Op.WRITE: _moved,
    Op.READDIRPLUS: _moved,
    Op.RELEASE: _after(wire.RELEASE_IN, "handle"),
    Op.RELEASEDIR: _after(wire.RELEASE_IN, "handle"),
    Op.FLUSH: _after(wire.RELEASE_IN, "handle"),
    Op.FSYNC: _after(wire.FSYNC_IN, "handle", "datasync"),
    Op.FSYNCDIR: _after(wire.FSYNC_IN, "handle", "datasync"),
    Op.SETXATTR: _setxattr,
    Op.GETXATTR: _after(wire.GETXATTR_IN, "size", names=("name",)),
    Op.LISTXATTR: _after(wire.GETXATTR_IN, "size"),
    Op.REMOVEXATTR: _name,
    Op.INIT: _after(wire.INIT_IN, "major", "minor", "max_readahead", "flags"),
    Op.INTERRUPT: _after(wire.RELEASE_IN, "of"),
}

# --- results ---


def _attributes(values: tuple[int, ...]) -> Words:
    (
        node,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        atime_ns,
        mtime_ns,
        ctime_ns,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        _,
        _,
    ) = values
    device = {"rdev": rdev} if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else {}
    return {
        "node": node,
        "mode": f"{mode:o}",
        "nlink": nlink,
        "uid": uid,
        "gid": gid,
        "size": size,
        "blocks": blocks,
        **device,
        "atime": _time(atime, atime_ns),
        "mtime": _time(mtime, mtime_ns),
        "ctime": _time(ctime, ctime_ns),
    }


def _entry(data: bytes) -> Words:
    node, generation, *_ = values = wire.ENTRY_OUT.unpack_from(data)
    if not node:
        return {"node": 0}  # there is no such name, and the kernel may believe that
    return {**_attributes(values[6:]), "node": node, "generation": generation}


def _attr(data: bytes) -> Words:
    return _attributes(wire.ATTR_OUT.unpack_from(data)[2:])


def _created(data: bytes) -> Words:
    return _entry(data) | _handle(data[wire.ENTRY_OUT.size :])


def _handle(data: bytes) -> Words:
    handle, _ = wire.OPEN_OUT.unpack_from(data)
    return {"handle": handle}


def _size(data: bytes) -> Words:
    (size,) = wire.WRITE_OUT.unpack_from(data)
    return {"size": size}


def _statfs(data: bytes) -> Words:
    values = wire.STATFS_OUT.unpack_from(data)
    return dict(
        zip(
            ("blocks", "free", "available", "files", "files_free", "block_size"),
            values,
            strict=False,
        )
    )


_RESULTS: Final[dict[int, Callable[[bytes], Words]]] = {
    Op.LOOKUP: _entry,
    Op.SYMLINK: _entry,
    Op.MKNOD: _entry,
    Op.MKDIR: _entry,
    Op.LINK: _entry,
    Op.CREATE: _created,
    Op.GETATTR: _attr,
    Op.SETATTR: _attr,
    Op.OPEN: _handle,
    Op.OPENDIR: _handle,
    Op.WRITE: _size,
    Op.READLINK: lambda data: {"target": text_of(data)},
    Op.GETXATTR: lambda data: {"size": len(data)},
    Op.LISTXATTR: lambda data: {"names": [text_of(name) for name in data.split(b"\0")[:-1]]},
    Op.STATFS: _statfs,
}
