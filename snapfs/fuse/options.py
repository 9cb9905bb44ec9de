"""Mount options: what mount(8), fstab and users write after ``-o``, read into one value.

Loaded by ``snapfs mount`` before anything else is, so this imports no event loop. What the options
do is decided by those who read them; here are only their names, their values, and which of them go
on to the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from snapfs.blocks.claim import INTERVAL, INTERVAL_LEAST, INTERVAL_MOST
from snapfs.errors import UsageError
from snapfs.fuse.common_options import (
    ACCEPTED,
    ACCEPTED_WITH_VALUE,
    DEPENDING,
    REFUSED,
    check_depending,
)
from snapfs.fuse.tracing.record import SIZE_LEAST, SIZE_MOST

#: Longest time between commits that can be asked for: a day.
COMMIT_LIMIT: Final = 86_400.0

#: Percent of the volume that automatic deletion keeps available, unless told otherwise.
AUTODELETE_BELOW: Final = 5.0

#: What ``cache`` may be, in bytes, and the powers of two that its units stand for.
CACHE_LEAST: Final = 1 << 20
CACHE_MOST: Final = 1 << 40
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

#: Restrictions, which the kernel enforces, and when changes are stored (the kernel sees to what is
#: written with ``sync``, the handlers of requests to all else). Their opposites cancel them.
_TO_KERNEL: Final = {
    "noexec": "exec",
    "nosuid": "suid",
    "nodev": "dev",
    "sync": "async",
    "dirsync": "",
}

#: What ``loglevel`` may be: a daemon logs what is as important as that, or more.
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_FLAGS: Final[dict[str, dict[str, Any]]] = {
    "ro": {"read_only": True},
    "rw": {"read_only": False},
    "snapshow": {"snapshow": True},
    "nosnapshow": {"snapshow": False},
    "snapro": {"snapro": True},
    "nosnapro": {"snapro": False},
    "snapsuid": {"snapsuid": True},
    "nosnapsuid": {"snapsuid": False},
    "noxattr": {"xattr": False},
    "xattr": {"xattr": True},
    "user_xattr": {"xattr": True},
    "allow_other": {"allow_other": True},
    "allow_root": {"allow_root": True},
    "noatime": {"atime": False},
    "atime": {"atime": True},
    "relatime": {"atime": True},
    "diratime": {"diratime": True},
    "nodiratime": {"diratime": False},
    "discard": {"discard": True},
    "nodiscard": {"discard": False},
}


#: Requests that change names, and attributes. What is written comes with an FSYNC where it has to
#: be stored at once.
NAME_CHANGES: Final = frozenset(
    {"mknod", "mkdir", "symlink", "create", "link", "unlink", "rmdir", "rename"}
)
OTHER_CHANGES: Final = frozenset({"setattr", "setxattr", "removexattr"})


@dataclass(frozen=True)
class MountOptions:
    """What a mount is asked to be. ``umask`` and the owners replace what the volume says, for the
    whole mount.

    ``cache``: bytes that metadata which could be read again may take in memory, None: as usual.
    ``polling``: look for requests before sleeping. ``requests``: who reads them, ``direct`` or
    ``pyfuse3`` (its own loop). ``snapro``: all snapshots are read-only. ``snapsuid``: set-id bits,
    capabilities and devices in them count. ``mmp``: seconds within which other hosts are told anew
    that the volume is in use; None: they are neither told nor asked. ``loglevel``: what is logged
    at least; ``logfile``: where, instead of to syslog or standard error. ``trace``: a file that
    every request is recorded in. ``trace_size``: its bytes, None: as usual. ``trace_data``: what of
    the data of writes is recorded, ``checksum`` (as None) or ``all``. ``discard``: give the space
    of freed blocks back to the host; None: of a volume in memory only.
    """

    read_only: bool = False
    restore: str | None = None
    snapshot: str | None = None
    snapdir: str = ".snap"
    snapshow: bool = False
    snapro: bool = False
    snapsuid: bool = False
    commit: float = 5.0
    mmp: float | None = INTERVAL
    xattr: bool = True
    writeback: bool = True
    cache: int | None = None
    polling: bool = True
    requests: str = "direct"
    trace: str | None = None
    trace_size: int | None = None
    trace_data: str | None = None
    allow_other: bool = False
    allow_root: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    fsname: str | None = None
    atime: bool = True
    diratime: bool = True
    discard: bool | None = None
    loglevel: str = "info"
    logfile: str | None = None
    autodelete: str | None = None
    autodelete_below: float | None = None
    kernel: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.trace is None and (self.trace_size is not None or self.trace_data is not None):
            raise UsageError(
                "options 'trace_size' and 'trace_data' say how requests are recorded: "
                "add 'trace=FILE', or leave them out"
            )
        if self.autodelete_below is not None and self.autodelete is None:
            raise UsageError(
                "option 'autodelete_below' says when to delete snapshots: add "
                "'autodelete=oldest', or leave it out"
            )
        if self.restore is not None and self.read_only:
            raise UsageError(
                "option 'restore' changes the volume, so it cannot be combined with 'ro'"
            )
        if self.restore is not None and self.snapshot is not None:
            raise UsageError(
                "options 'restore' and 'snapshot' exclude each other: restore first, "
                "then mount the snapshot"
            )
        if self.allow_other and self.allow_root:
            raise UsageError("options 'allow_other' and 'allow_root' exclude each other")

    @property
    def stored_at_once(self) -> frozenset[str]:
        """The requests that are answered when what they change is durable: with ``dirsync`` those
        about names, with ``sync`` all.
        """
        if "sync" in self.kernel:
            return NAME_CHANGES | OTHER_CHANGES
        return NAME_CHANGES if "dirsync" in self.kernel else frozenset()

    @property
    def deletes_below(self) -> float | None:
        """The percentage that shall stay available by deleting snapshots; None: none is deleted, as
        where one of them is all that shows.
        """
        if self.autodelete != "oldest" or self.read_only or self.snapshot is not None:
            return None
        return AUTODELETE_BELOW if self.autodelete_below is None else self.autodelete_below


def parse_options(text: str) -> MountOptions:
    """Read a comma separated list; of several values for one thing the last one counts.

    Raises ``UsageError`` that names the first option that is unknown, has a value that cannot be,
    or says what is not so.
    """
    values: dict[str, Any] = {}
    kernel: set[str] = set()
    depending: set[str] = set()
    for word in text.split(","):
        name, equals, value = word.partition("=")
        if not name and not equals:
            continue
        if (
            name.startswith(("x-", "X-"))
            or word in ACCEPTED
            or (equals and name in ACCEPTED_WITH_VALUE)
        ):
            kernel -= {
                restriction for restriction, opposite in _TO_KERNEL.items() if opposite == name
            }
        elif word in REFUSED:
            raise UsageError(f"mount option '{word}' cannot be: {REFUSED[word]}")
        elif word in DEPENDING:
            depending.add(word)
        elif name in _FLAGS or name in _TO_KERNEL:
            if equals:
                raise UsageError(f"mount option '{name}' takes no value")
            values |= _FLAGS.get(name, {})
            if name in _TO_KERNEL:
                kernel.add(name)
            kernel -= {
                restriction for restriction, opposite in _TO_KERNEL.items() if opposite == name
            }
        elif name in _WITH_VALUE:
            if not value:
                raise UsageError(
                    f"mount option '{name}' needs a value: {name}={_WITH_VALUE[name][1]}"
                )
            values |= _WITH_VALUE[name][0](name, value)
        else:
            raise UsageError(f"unknown mount option '{word}'")
    options = MountOptions(**values, kernel=frozenset(kernel))
    if untrue := check_depending(depending, lambda name: getattr(options, name)):
        raise UsageError(untrue)
    return options


def value_forms() -> dict[str, str]:
    """The options that take a value, each with the form of the value."""
    return {name: form for name, (_, form) in _WITH_VALUE.items()}


def option_names() -> frozenset[str]:
    """All options of ours: those that ``common_options`` answers for are not among them."""
    return frozenset((*_FLAGS, *_TO_KERNEL, *_WITH_VALUE))


def _text(name: str, value: str) -> dict[str, Any]:
    return {name: value}


def _snapdir(name: str, value: str) -> dict[str, Any]:
    if (
        "/" in value
        or value in (".", "..")
        or "\0" in value
        or len(value.encode(errors="surrogateescape")) > 255
    ):
        raise UsageError(f"mount option '{name}={value}': not a name for a directory")
    return {name: value}


def _seconds(name: str, value: str) -> dict[str, Any]:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= COMMIT_LIMIT:  # NaN fails this, too
        raise UsageError(
            f"mount option '{name}={value}': not a number of seconds between 0 and "
            f"{COMMIT_LIMIT:.0f}"
        )
    return {name: seconds}


def _mmp(name: str, value: str) -> dict[str, Any]:
    if value == "off":
        return {name: None}
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not INTERVAL_LEAST <= seconds <= INTERVAL_MOST:  # NaN fails this, too
        limits = f"{INTERVAL_LEAST:.0f} to {INTERVAL_MOST:.0f}"
        raise UsageError(
            f"mount option '{name}={value}': not a number of seconds from {limits}, or 'off'"
        )
    return {name: seconds}


def _switch(name: str, value: str) -> dict[str, Any]:
    if value not in ("on", "off"):
        raise UsageError(f"mount option '{name}={value}': must be 'on' or 'off'")
    return {name: value == "on"}


def _autodelete(name: str, value: str) -> dict[str, Any]:
    if value not in ("oldest", "none"):
        raise UsageError(f"mount option '{name}={value}': must be 'oldest' or 'none'")
    return {name: value}


def _bytes(value: str) -> int:
    """A size in bytes; 0 for what is none."""
    number, unit = (value[:-1], value[-1].upper()) if value[-1].isalpha() else (value, "")
    if number.isascii() and number.isdecimal() and unit in _UNITS:
        return int(number) << _UNITS[unit]
    return 0


def _cache(name: str, value: str) -> dict[str, Any]:
    size = _bytes(value)
    if not CACHE_LEAST <= size <= CACHE_MOST:
        raise UsageError(
            f"mount option '{name}={value}': not a size from 1M to 1T (bytes, or a "
            "number with K, M, G or T)"
        )
    return {name: size}


def _trace_size(name: str, value: str) -> dict[str, Any]:
    size = _bytes(value)
    if not SIZE_LEAST <= size <= SIZE_MOST or size % 1024:
        raise UsageError(
            f"mount option '{name}={value}': not a size from 64K to 64G"
            " (bytes, or a number with K, M or G)"
        )
    return {name: size}


def _trace_data(name: str, value: str) -> dict[str, Any]:
    if value not in ("checksum", "all"):
        raise UsageError(f"mount option '{name}={value}': must be 'checksum' or 'all'")
    return {name: value}


def _requests(name: str, value: str) -> dict[str, Any]:
    if value not in ("direct", "pyfuse3"):
        raise UsageError(f"mount option '{name}={value}': must be 'direct' or 'pyfuse3'")
    return {name: value}


def _loglevel(name: str, value: str) -> dict[str, Any]:
    if value not in LOG_LEVELS:
        raise UsageError(f"mount option '{name}={value}': must be {log_levels()}")
    return {name: value}


def log_levels() -> str:
    """What a log level may be, in words."""
    return ", ".join(f"'{one}'" for one in LOG_LEVELS[:-1]) + f" or '{LOG_LEVELS[-1]}'"


def _percent(name: str, value: str) -> dict[str, Any]:
    try:
        percent = float(value.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:  # NaN fails this, too
        raise UsageError(
            f"mount option '{name}={value}': not a percentage, from 0 to less than 100"
        )
    return {name: percent}


def _id(name: str, value: str) -> dict[str, Any]:
    # The largest number means "no id" to the kernel.
    if not (value.isascii() and value.isdecimal()) or int(value) >= 0xFFFF_FFFF:
        raise UsageError(f"mount option '{name}={value}': not a numeric {name}")
    return {name: int(value)}


def _octal(name: str, value: str) -> dict[str, Any]:
    if not value or set(value) - set("01234567") or int(value, 8) > 0o777:
        raise UsageError(f"mount option '{name}={value}': not an octal mask of permissions")
    return {name: int(value, 8)}


#: Reader, and what to show as the value's form.
_WITH_VALUE: Final = {
    "restore": (_text, "NAME"),
    "snapshot": (_text, "NAME"),
    "snapdir": (_snapdir, "NAME"),
    "commit": (_seconds, "SECONDS"),
    "mmp": (_mmp, "SECONDS|off"),
    "writeback": (_switch, "on|off"),
    "cache": (_cache, "SIZE"),
    "polling": (_switch, "on|off"),
    "requests": (_requests, "direct|pyfuse3"),
    "trace": (_text, "FILE"),
    "trace_size": (_trace_size, "SIZE"),
    "trace_data": (_trace_data, "checksum|all"),
    "uid": (_id, "NUMBER"),
    "gid": (_id, "NUMBER"),
    "umask": (_octal, "OCTAL"),
    "fsname": (_text, "NAME"),
    "loglevel": (_loglevel, "debug|info|warning|error"),
    "logfile": (_text, "PATH"),
    "autodelete": (_autodelete, "oldest|none"),
    "autodelete_below": (_percent, "PERCENT"),
}
