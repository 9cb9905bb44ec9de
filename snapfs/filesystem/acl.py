"""POSIX access control lists as extended attributes (acl(5); POSIX.1e draft 17): how they and a
mode keep each other right.

The kernel checks permissions; what it leaves to the filesystem is here: the mode that follows from
an access list, the list that follows from ``chmod``, and what a new file inherits from its
directory's default list.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass

from snapfs.errors import InvalidArgument

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_TAGS = (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER)
_NO_ID = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Acl:
    """Entries (tag, permissions, id) in canonical order."""

    entries: tuple[tuple[int, int, int], ...]

    @classmethod
    def decode(cls, value: bytes) -> Acl:
        """Parse and validate. Raises ``InvalidArgument``."""
        if (
            len(value) < _HEADER.size
            or _HEADER.unpack_from(value)[0] != _VERSION
            or (len(value) - _HEADER.size) % _ENTRY.size
        ):
            raise InvalidArgument("not an access control list")
        entries = tuple(
            (tag, perm, who if tag in (USER, GROUP) else _NO_ID)
            for tag, perm, who in _ENTRY.iter_unpack(value[_HEADER.size :])
        )
        tags = [tag for tag, _, _ in entries]
        named = USER in tags or GROUP in tags
        once = (
            all(tags.count(tag) == 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER))
            and tags.count(MASK) <= 1
        )
        if entries and (
            not once
            or any(tag not in _TAGS or perm > 7 for tag, perm, _ in entries)
            or (named and MASK not in tags)
        ):
            raise InvalidArgument("not a valid access control list")
        return cls(entries)

    @classmethod
    def of_mode(cls, mode: int) -> Acl:
        """The list that says what nine permission bits say."""
        return cls(
            (
                (USER_OBJ, mode >> 6 & 7, _NO_ID),
                (GROUP_OBJ, mode >> 3 & 7, _NO_ID),
                (OTHER, mode & 7, _NO_ID),
            )
        )

    def encode(self) -> bytes:
        """As the kernel stores it."""
        return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in self.entries)

    def _permissions(self, tag: int) -> int | None:
        return next((perm for kind, perm, _ in self.entries if kind == tag), None)

    @property
    def mode(self) -> int:
        """The nine permission bits that stand for this list."""
        mask = self._permissions(MASK)
        group = mask if mask is not None else self._permissions(GROUP_OBJ)
        return (
            (self._permissions(USER_OBJ) or 0) << 6
            | (group or 0) << 3
            | (self._permissions(OTHER) or 0)
        )

    @property
    def is_minimal(self) -> bool:
        """Does the mode alone say the same?"""
        return all(tag in (USER_OBJ, GROUP_OBJ, OTHER) for tag, _, _ in self.entries)

    def with_mode(self, mode: int) -> Acl:
        """The list after ``chmod``: the group bits go to the mask where there is one."""
        group = MASK if self._permissions(MASK) is not None else GROUP_OBJ
        bits = {USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, OTHER: mode & 7}
        return Acl(tuple((tag, bits.get(tag, perm), who) for tag, perm, who in self.entries))

    def permits(
        self, wanted: int, uid: int, groups: Collection[int], *, owner: int, group: int
    ) -> bool:
        """Does it grant these permissions (4 read, 2 write, 1 search) to a user? The order of
        acl(5), "Access check algorithm".
        """
        if uid == owner:
            return (self._permissions(USER_OBJ) or 0) & wanted == wanted
        mask = self._permissions(MASK)
        limit = 7 if mask is None else mask
        for tag, perm, who in self.entries:
            if tag == USER and who == uid:
                return perm & limit & wanted == wanted
        mine = [
            perm
            for tag, perm, who in self.entries
            if (group if tag == GROUP_OBJ else who if tag == GROUP else None) in groups
        ]
        if mine:
            return any(perm & limit & wanted == wanted for perm in mine)
        return (self._permissions(OTHER) or 0) & wanted == wanted

    def inherited(self, mode: int) -> Acl:
        """The access list of something created with ``mode`` where this is the default list: no
        more than both allow.
        """
        return self.with_mode(self.mode & mode)
