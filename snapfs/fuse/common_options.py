"""Mount options that scripts and fstab give to every filesystem (mount(8), FILESYSTEM-INDEPENDENT
MOUNT OPTIONS), and some of ext4's.

What snapfs does anyway, or what means something to others, is accepted; what would be a lie is
refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Words that mean something to mount(8), systemd or libmount, and nothing here.
_NOT_FOR_US: Final = (
    *(
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "nousers",
        "owner",
        "noowner",
        "group",
        "nogroup",
    ),
    *("nofail", "fail", "_netdev", "loop", "silent", "loud"),
)

#: What is so with every mount. ``lazytime``: times are stored later than they change, and no later
#: than it promises. ``nostrictatime`` only says what is not. ``errors``, ``barrier``: what follows
#: from a damage or a failed write, and that flushes reach the disk.
_SO_ANYWAY: Final = (
    *(
        "async",
        "exec",
        "suid",
        "dev",
        "symfollow",
        "default_permissions",
        "nomand",
        "noiversion",
        "nostrictatime",
    ),
    *("lazytime", "nolazytime", "noquota", "errors=remount-ro", "barrier", "barrier=1"),
)

ACCEPTED: Final = frozenset((*_NOT_FOR_US, *_SO_ANYWAY))

#: The same with any value. ``user=NAME`` is what libmount makes of ``user``; the ids and sizes are
#: what it reads back from the kernel for a remount. Contexts come from a machine with SELinux,
#: where files have no labels of their own here.
ACCEPTED_WITH_VALUE: Final = frozenset(
    {
        *("comment", "user", "context", "fscontext", "defcontext", "rootcontext"),
        *("subtype", "user_id", "group_id", "rootmode", "max_read", "blksize"),
    }
)

_NO_QUOTAS: Final = "there are no quotas"
_READ_ONLY: Final = (
    "after an error that spoils the volume it is always read-only (errors=remount-ro)"
)
_FLUSHED: Final = "what is stored is always flushed to the disk"

#: What is never so, and why.
REFUSED: Final = {
    "mand": "there are no mandatory locks",
    "iversion": "no version of an inode is counted",
    "strictatime": "access times are renewed as with relatime, or not at all (noatime)",
    "nosymfollow": "symbolic links are followed",
    "quiet": "what fails is told",
    "quota": _NO_QUOTAS,
    "usrquota": _NO_QUOTAS,
    "grpquota": _NO_QUOTAS,
    "prjquota": _NO_QUOTAS,
    "errors=continue": _READ_ONLY,
    "errors=panic": _READ_ONLY,
    "nobarrier": _FLUSHED,
    "barrier=0": _FLUSHED,
}

#: What is so depending on other options: the option of ours (a field of ``MountOptions``), the
#: value with which it is, and the reason that it is not with another.
DEPENDING: Final[dict[str, tuple[str, bool, str]]] = {
    "acl": ("xattr", True, "with noxattr there are none"),
    "noacl": (
        "xattr",
        False,
        "access control lists count; 'noxattr' turns them off, with all extended attributes",
    ),
    "nouser_xattr": ("xattr", False, "extended attributes can be set; 'noxattr' turns them off"),
    "norelatime": (
        "atime",
        False,
        "access times are renewed as with relatime; 'noatime' turns that off",
    ),
}


def check_depending(words: set[str], value_of: Callable[[str], object]) -> str | None:
    """The first word that is not so, with the reason; ``value_of`` gives the value of an option of
    ours. None when all is well.
    """
    for word in sorted(words):
        name, wanted, reason = DEPENDING[word]
        if value_of(name) is not wanted:
            return f"mount option '{word}' cannot be: {reason}"
    return None
