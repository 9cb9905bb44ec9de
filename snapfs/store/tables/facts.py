"""What people say about an instance: whether it may be written, holds, a description, tags.
``doc/format.md`` section 8.

They are an item of the instance table of their own, next to the instance, so that each of the two
fits the smallest block however much there is to say. Facts are never changed, only replaced: each
function here gives others, or raises ``UsageError``, ``NameTaken``, ``NoSuchFact``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from snapfs.blocks.schema import check_range
from snapfs.errors import CorruptBlock, NameTaken, NoSuchFact, UsageError

#: Sizes in bytes of UTF-8. Together they stay below a block of 4096 bytes.
DESCRIPTION_MAX: Final = 512
HOLDS_MAX: Final = 8
HOLD_NAME_MAX: Final = 64
REASON_MAX: Final = 128
TAGS_MAX: Final = 16

#: Of all keys and values together.
TAGS_BYTES_MAX: Final = 512

#: The name of a hold that was given none.
DEFAULT_HOLD: Final = "hold"

_TIME: Final = 1 << 63


def text_fault(text: str, what: str, limit: int) -> str | None:
    """Why this cannot be such a text; None when it can."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"{what} must be valid UTF-8"
    if size > limit:
        return f"{what} has at most {limit} bytes, this one has {size}"
    for sign in text:
        if unicodedata.category(sign) == "Cc":
            return f"{what} is one line, without control characters: it cannot contain {sign!r}"
    return None


@dataclass(frozen=True, slots=True)
class Hold:
    """Forbids to delete a snapshot. ``owner`` is the user who asked for it."""

    name: str
    reason: str = ""
    since_ns: int = 0
    owner: int = 0

    @property
    def fault(self) -> str | None:
        """Why it cannot be."""
        if not self.name:
            return "a hold's name cannot be empty"
        return text_fault(self.name, "a hold's name", HOLD_NAME_MAX) or text_fault(
            self.reason, "a hold's reason", REASON_MAX
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it. ``tags`` are values by key."""

    read_only: bool = False
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()

    @property
    def fault(self) -> str | None:
        """Why they cannot be; None when they can."""
        if fault := text_fault(self.description, "a description", DESCRIPTION_MAX):
            return fault
        for key, value in self.tags.items():
            if not key or "=" in key:
                return f"{key!r}: a tag's key cannot be empty or contain '='"
            if fault := text_fault(key, "a tag's key", TAGS_BYTES_MAX) or text_fault(
                value, "a tag's value", TAGS_BYTES_MAX
            ):
                return fault
        if len(self.tags) > TAGS_MAX:
            return f"a snapshot has at most {TAGS_MAX} tags, these are {len(self.tags)}"
        size = sum(len(key.encode()) + len(value.encode()) for key, value in self.tags.items())
        if size > TAGS_BYTES_MAX:
            return (
                f"the tags of a snapshot have at most {TAGS_BYTES_MAX} bytes together, "
                f"these have {size}"
            )
        if len(self.holds) > HOLDS_MAX:
            return f"a snapshot has at most {HOLDS_MAX} holds"
        return next((hold.fault for hold in self.holds if hold.fault), None)

    def checked(self) -> Facts:
        """Themselves. Raises ``UsageError``."""
        if fault := self.fault:
            raise UsageError(fault)
        return self

    # Changing

    def hold(self, hold: Hold) -> Facts:
        """With one more hold."""
        if any(one.name == hold.name for one in self.holds):
            raise NameTaken(f"it is held as {hold.name!r} already: give the hold another name")
        return replace(self, holds=(*self.holds, hold)).checked()

    def release(self, name: str) -> Facts:
        """Without a hold."""
        if all(one.name != name for one in self.holds):
            there = ", ".join(repr(one.name) for one in self.holds)
            raise NoSuchFact(
                f"it has no hold named {name!r}"
                + (f"; it is held as {there}" if there else ": nobody holds it")
            )
        return replace(self, holds=tuple(one for one in self.holds if one.name != name))

    def changed(
        self,
        *,
        read_only: bool | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        untag: Iterable[str] = (),
    ) -> Facts:
        """With what is given replaced: tags by key, ``untag`` are keys that go."""
        left = dict(self.tags)
        for key in untag:
            if key not in left:
                raise NoSuchFact(f"it has no tag {key!r}")
            del left[key]
        left.update(tags or {})
        return replace(
            self,
            read_only=self.read_only if read_only is None else read_only,
            description=self.description if description is None else description,
            tags=dict(sorted(left.items())),
        ).checked()

    # On the volume

    def encode(self) -> dict[str, Any]:
        """The value in the instance table."""
        return {
            "read_only": self.read_only, "description": self.description, "tags": dict(self.tags),
            "holds": [[one.name, one.reason, one.since_ns, one.owner] for one in self.holds],
        }  # fmt: skip

    @classmethod
    def decode(cls, value: object, what: str) -> Facts:
        """Validate an item of the table. Raises ``CorruptBlock``."""
        if type(value) is not dict:
            raise CorruptBlock(f"{what}: a map was expected")
        read_only, description = value.get("read_only", False), value.get("description", "")
        tags, holds = value.get("tags", {}), value.get("holds", [])
        if (
            type(read_only) is not bool
            or type(description) is not str
            or type(tags) is not dict
            or type(holds) is not list
        ):
            raise CorruptBlock(f"{what}: a field is of the wrong type")
        if any(type(key) is not str or type(tag) is not str for key, tag in tags.items()):
            raise CorruptBlock(f"{what}: a tag is not text")
        found = cls(read_only, description, tags, tuple(_decode_hold(one, what) for one in holds))
        if fault := found.fault:
            raise CorruptBlock(f"{what}: {fault}")
        if len({one.name for one in found.holds}) != len(holds):
            raise CorruptBlock(f"{what}: two holds have one name")
        return found


def _decode_hold(value: object, what: str) -> Hold:
    if (
        type(value) is not list
        or len(value) != 4
        or type(value[0]) is not str
        or type(value[1]) is not str
    ):
        raise CorruptBlock(f"{what}: not a hold")
    return Hold(
        value[0],
        value[1],
        check_range(value[2], -_TIME, _TIME, what),
        check_range(value[3], 0, 0xFFFF_FFFF, what),
    )


#: Of an instance about which nothing is said: it has no item.
NO_FACTS: Final = Facts()
