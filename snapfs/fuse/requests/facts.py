"""What directories in a snapshot answer about it: extended attributes that stand on no volume, and
in no listing.

Listed, they would be copied with every directory that is copied out of a snapshot.
"""

from __future__ import annotations

from typing import Final

from snapfs.errors import NotPermitted
from snapfs.snapshots import Instance

#: When the snapshot was made, in CephFS's form: what Samba's ceph_snapshots asks for.
CEPH_BTIME: Final = b"ceph.snap.btime"

_PREFIX: Final = b"user.snapfs."

#: The mode of a file in a snapshot as it is stored, with set-id bits that are not shown: four octal
#: digits. Files have it, too.
MODE: Final = _PREFIX + b"mode"

_TAG_PREFIX: Final = _PREFIX + b"tag."

_NAMES: Final = tuple(
    _PREFIX + name
    for name in (
        b"name",
        b"created",
        b"changed",
        b"owner",
        b"read-only",
        b"description",
        b"holds",
        b"tags",
    )
)


def is_answered(name: bytes) -> bool:
    """Is this the name of such an attribute?"""
    return name in (CEPH_BTIME, MODE) or name in _NAMES or name.startswith(_TAG_PREFIX)


def check_settable(name: bytes) -> None:
    """Raises ``NotPermitted`` for a name that nobody can give an attribute of a file: in snapshots
    it means something else.
    """
    if is_answered(name):
        raise NotPermitted(
            f"{name.decode(errors='replace')} tells about snapshots: 'snapfs snapshot "
            "set' changes it"
        )


def answer(instance: Instance, name: bytes) -> bytes | None:
    """The value of such an attribute; None for what nobody has said. Several values stand on a line
    each.
    """
    facts = instance.facts
    if name.startswith(_TAG_PREFIX):
        value = facts.tags.get(name.removeprefix(_TAG_PREFIX).decode(errors="replace"))
        return None if value is None else value.encode()
    match name.removeprefix(_PREFIX):
        case b"name":
            return instance.name.encode()
        case b"created" | b"ceph.snap.btime":
            return _seconds(instance.created_ns)
        case b"changed":
            return _seconds(instance.changed_ns) if instance.changed else None
        case b"owner":
            return b"%d" % instance.owner
        case b"read-only":
            return b"yes" if facts.read_only else b"no"
        case b"description":
            return facts.description.encode() or None
        case b"holds":
            return "\n".join(hold.name for hold in facts.holds).encode() or None
        case b"tags":
            return "\n".join(f"{key}={value}" for key, value in facts.tags.items()).encode() or None
    return None


def _seconds(nanoseconds: int) -> bytes:
    return b"%d.%09d" % divmod(nanoseconds, 1_000_000_000)
