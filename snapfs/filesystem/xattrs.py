"""Extended attributes: one msgpack map per inode, inside the inode while it fits, else in blocks of
its own.
"""

from __future__ import annotations

import stat
from typing import Final

from snapfs.blocks.inode import INLINE_ATTRIBUTES, INLINE_BYTES, INLINE_NONE
from snapfs.blocks.schema import pack, unpack
from snapfs.errors import (
    CorruptBlock,
    Exists,
    InvalidArgument,
    NoAttribute,
    NoSpace,
    NotPermitted,
    NotSupported,
    OutOfRange,
    TooBig,
)
from snapfs.filesystem import acl
from snapfs.filesystem.inode import ATTRIBUTES_LIMIT, Inode
from snapfs.filesystem.view import View
from snapfs.ids import NAME_MAX
from snapfs.store.commit import costs
from snapfs.store.trees import cutting

#: What a program may do besides, whoever starts it.
CAPABILITY: Final = b"security.capability"

#: Largest value, and largest list of names, that the kernel passes on (linux/limits.h).
VALUE_MAX = 65536
LIST_MAX = 65536

NAMESPACES = (b"user.", b"trusted.", b"security.", b"system.")


def load(inode: Inode) -> dict[bytes, bytes]:
    """All attributes of an inode. Raises ``NotCached``, ``CorruptBlock``."""
    if inode.attributes is None:
        if inode.inline_kind == INLINE_ATTRIBUTES:
            data = inode.inline
        else:
            block_size = inode.view.volume.geometry.block_size
            count = -(-inode.attribute_bytes // block_size)
            pointers = []
            for _, words, slot, number in inode.attribute_map.spans(0, count):
                if words is None:
                    raise CorruptBlock(f"inode {inode.ino}: its extended attributes have a hole")
                pointers += [(words[2 * n], words[2 * n + 1]) for n in range(slot, slot + number)]
            data = b"".join(inode.view.volume.load_all("blob", pointers))[: inode.attribute_bytes]
        found = unpack(data, f"extended attributes of inode {inode.ino}")
        if type(found) is not dict or any(
            type(name) is not bytes or type(value) is not bytes for name, value in found.items()
        ):
            raise CorruptBlock(
                f"extended attributes of inode {inode.ino}: a map of bytes was expected"
            )
        inode.attributes = found
    return inode.attributes


def get(inode: Inode, name: bytes) -> bytes:
    """One value. Raises ``NoAttribute``."""
    try:
        return load(inode)[name]
    except KeyError:
        raise NoAttribute(f"no attribute {name!r}") from None


def check_name(inode: Inode, name: bytes) -> None:
    """Raises ``InvalidArgument``, ``NotSupported``, ``OutOfRange``, ``NotPermitted`` for names that
    cannot be, here or at all.
    """
    if name in NAMESPACES:
        raise InvalidArgument("an attribute's name does not end with its namespace")
    if not name.startswith(NAMESPACES):
        raise NotSupported(f"no such namespace: {name!r}")
    if name.startswith(b"system.") and name not in (acl.ACCESS, acl.DEFAULT):
        raise NotSupported(f"no such attribute: {name!r}")
    if len(name) > NAME_MAX:
        raise OutOfRange("the attribute's name is too long")
    if name.startswith(b"user.") and not (stat.S_ISREG(inode.mode) or stat.S_ISDIR(inode.mode)):
        raise NotPermitted("only files and directories have user attributes")


def plan_store(inode: Inode, attributes: dict[bytes, bytes], *, beside: int = 0) -> bytes:
    """Make everything writable that storing these attributes changes; their bytes. May raise
    ``NotCached``, ``NoSpace``.

    ``beside`` is the cost of what the caller changes afterwards.
    """
    volume = inode.view.volume
    data = pack(attributes) if attributes else b""
    if len(data) > ATTRIBUTES_LIMIT:
        raise NoSpace("the extended attributes of one file may not exceed 1 MiB")
    count = 0 if _fits(inode, data) else -(-len(data) // volume.geometry.block_size)
    cost = (
        costs.INODE
        + costs.of_cut(inode.attribute_map)
        + (costs.of_attributes(data, volume.geometry) if count else 0)
    )
    volume.allocator.prepare(0, metadata=volume.dirtied + cost + beside)
    inode.view.change(inode)
    _make_room(inode, count)
    cutting.cut(inode.attribute_map, count, 1 << 20)
    return data


def _make_room(inode: Inode, count: int) -> None:
    if count:
        inode.attribute_map.grow(count)
        for index in range(count):
            inode.attribute_map.writable(0, index)


def blocks_for(view: View, attributes: dict[bytes, bytes]) -> int:
    """Blocks that the attributes of a new inode take, at most."""
    return costs.of_attributes(pack(attributes), view.volume.geometry) if attributes else 0


def store_new(inode: Inode, attributes: dict[bytes, bytes]) -> None:
    """Give a new inode its first attributes. Cannot fail: the caller has made sure of
    ``blocks_for`` them.
    """
    data = pack(attributes)
    if not _fits(inode, data):
        _make_room(inode, -(-len(data) // inode.view.volume.geometry.block_size))
    store(inode, attributes, data)


def store(inode: Inode, attributes: dict[bytes, bytes], data: bytes) -> None:
    """Put what ``plan_store`` encoded into place. Cannot fail."""
    block_size = inode.view.volume.geometry.block_size
    inode.attributes = attributes
    if inode.inline_kind == INLINE_ATTRIBUTES:
        inode.inline_kind, inode.inline = INLINE_NONE, b""
    inode.attribute_bytes = 0
    if data and _fits(inode, data):
        inode.inline_kind, inode.inline = INLINE_ATTRIBUTES, data
    elif data:
        inode.attribute_bytes = len(data)
        for index in range(-(-len(data) // block_size)):
            inode.attribute_map.writable(0, index)[:] = data[
                index * block_size : (index + 1) * block_size
            ].ljust(block_size, b"\0")


def _fits(inode: Inode, data: bytes) -> bool:
    return len(data) <= INLINE_BYTES and inode.inline_kind in (INLINE_NONE, INLINE_ATTRIBUTES)


def set_value(
    inode: Inode, name: bytes, value: bytes, *, create: bool, replace: bool, beside: int = 0
) -> None:
    """Set one attribute; ``beside`` is as for ``plan_store``. Raises ``Exists``, ``NoAttribute``,
    ``TooBig``, ``NoSpace``.
    """
    check_name(inode, name)
    if len(value) > VALUE_MAX:
        raise TooBig("the attribute's value is too long")
    old = load(inode)
    if create and name in old:
        raise Exists(f"attribute {name!r} exists")
    if replace and name not in old:
        raise NoAttribute(f"no attribute {name!r}")
    mode = inode.mode
    attributes = dict(old)
    attributes[name] = value
    if name in (acl.ACCESS, acl.DEFAULT):
        if name == acl.DEFAULT and not inode.is_directory:
            raise NotPermitted("only directories have default access control lists")
        if stat.S_ISLNK(inode.mode):
            raise NotSupported("symbolic links have no access control lists")
        parsed = acl.Acl.decode(value)
        if name == acl.ACCESS and parsed.entries:
            mode = mode & ~0o777 | parsed.mode
        if not parsed.entries or (name == acl.ACCESS and parsed.is_minimal):
            del attributes[name]
        else:
            attributes[name] = parsed.encode()
    if sum(len(key) + 1 for key in attributes) > LIST_MAX:
        raise NoSpace("the list of attribute names is full")
    store(inode, attributes, plan_store(inode, attributes, beside=beside))
    inode.mode = mode


def remove(inode: Inode, name: bytes) -> None:
    """Remove one attribute. Raises ``NoAttribute``."""
    old = load(inode)
    if name not in old:
        if name in (acl.ACCESS, acl.DEFAULT):
            return  # as the kernel's own filesystems: there is nothing that the mode does not say
        raise NoAttribute(f"no attribute {name!r}")
    attributes = {key: value for key, value in old.items() if key != name}
    store(inode, attributes, plan_store(inode, attributes))
