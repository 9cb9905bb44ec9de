"""The one place where an exception of ours becomes an errno.

A request must end with an errno whatever happens in it: what has none here is a defect of ours or
damage on the device, is logged, and becomes EIO. Nothing else may decide on errno values, apart
from the few that are answers of the protocol (ENOSYS).
"""

from __future__ import annotations

import errno
import logging
from typing import Final

from snapfs import errors

log = logging.getLogger("snapfs.fuse")

#: The most derived class of an exception that is listed here decides.
ERRNO: Final[dict[type[BaseException], int]] = {
    errors.NotFound: errno.ENOENT,
    errors.Exists: errno.EEXIST,
    errors.NotDirectory: errno.ENOTDIR,
    errors.IsDirectory: errno.EISDIR,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.CrossView: errno.EXDEV,
    errors.NotPermitted: errno.EPERM,
    errors.AccessDenied: errno.EACCES,
    errors.InvalidArgument: errno.EINVAL,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.TooManyLinks: errno.EMLINK,
    errors.FileTooBig: errno.EFBIG,
    errors.NoAttribute: errno.ENODATA,
    errors.NotSupported: errno.EOPNOTSUPP,
    errors.TooBig: errno.E2BIG,
    errors.OutOfRange: errno.ERANGE,
    errors.StaleInode: errno.ESTALE,
    errors.NoSpace: errno.ENOSPC,
    errors.ReadOnly: errno.EROFS,
    errors.NoSuchSnapshot: errno.ENOENT,
    errors.NameTaken: errno.EEXIST,
    errors.BadName: errno.EINVAL,
    errors.TooManySnapshots: errno.EMLINK,
    errors.SnapshotBusy: errno.EBUSY,
    errors.SnapshotHeld: errno.EBUSY,
    errors.MountsInside: errno.EBUSY,
    errors.NoSuchFact: errno.ENOENT,
    errors.UsageError: errno.EINVAL,
    errors.CopyBlocked: errno.EIO,
    errors.DeviceFull: errno.ENOSPC,
    errors.DeviceError: errno.EIO,
    errors.VolumeError: errno.EIO,
}

#: Trouble with the volume itself: the user sees an errno, the administrator a line in the log.
_LOGGED: Final = (errors.DeviceError, errors.VolumeError)


def is_trouble(exc: Exception) -> bool:
    """Whether the log must say more of it than the user is told."""
    return isinstance(exc, _LOGGED)


def errno_of(exc: Exception, what: str | None) -> int:
    """The errno that tells a user about ``exc``; ``what`` names the request in the log, None for
    trouble that was logged already.
    """
    for kind in type(exc).__mro__:
        if kind in ERRNO:
            if is_trouble(exc) and what is not None:
                log.error("%s: %s", what, exc)
            return ERRNO[kind]
    log.error("%s: internal error: %s", what, exc, exc_info=exc)
    return errno.EIO
