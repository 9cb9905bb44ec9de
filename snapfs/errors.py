"""The one exception tree of snapfs.

::

    SnapfsError
    ├── DeviceError                the device failed a read, write or flush
    │   └── DeviceFull             no space below a sparse image
    │       └── CopyBlocked        what a write would destroy cannot be copied before
    ├── VolumeError                what is on the device cannot be used
    │   ├── NotAVolume             no superblock of ours
    │   ├── UnsupportedVersion     a newer format, or an unknown feature
    │   ├── Truncated              the device is shorter than the volume
    │   └── CorruptBlock           a checksum or a schema does not hold
    │       └── CorruptData        of a file's data: the rest of the volume does not depend on it
    ├── VolumeBusy                 another process uses the image
    ├── CopyError                  a full copy that cannot be made, or gone on with
    ├── Occupied                   something is there that is not overwritten unasked
    ├── UsageError                 an argument that cannot be
    ├── UnmountFailed              a mount that cannot be unmounted
    │   ├── MountBusy              somebody uses it
    │   └── MountCovered           its path leads to something else that is mounted there
    ├── SnapshotError
    │   ├── NoSuchSnapshot
    │   ├── NameTaken
    │   ├── BadName
    │   ├── TooManySnapshots
    │   ├── SnapshotBusy
    │   ├── MountsInside
    │   ├── SnapshotHeld
    │   └── NoSuchFact
    └── FsError                    results of file operations, one class for each errno
        ├── NotFound, Exists, NotDirectory, IsDirectory, NotEmpty, ...
        ├── NoSpace
        └── ReadOnly

What the core raises to ask its driver for something is no error: ``snapfs.interrupts``.

A message is one line that says what is wrong and, where there is something to do, what to do.
The mapping to errno values is in ``snapfs.fuse.protocol.errno`` and nowhere else.
"""

from __future__ import annotations


class SnapfsError(Exception):
    """Base of every error that snapfs raises on purpose."""


class DeviceError(SnapfsError):
    """The device failed a read, a write or a flush."""


class DeviceFull(DeviceError):
    """What stores the image has no space left (a sparse image on a full disk)."""


class CopyBlocked(DeviceFull):
    """A block must be copied before it is written, which its copy's target does not take; whoever
    began the copy wants it to come first.
    """


class VolumeError(SnapfsError):
    """What is on the device cannot be used as a volume."""


class NotAVolume(VolumeError):
    """The device holds no snapfs superblock."""


class UnsupportedVersion(VolumeError):
    """The volume was written by a newer snapfs, or has a feature that this one does not know."""


class Truncated(VolumeError):
    """The device is shorter than the volume that its superblock describes."""


class CorruptBlock(VolumeError):
    """A block fails its checksum or its schema. Files get EIO for it, never wrong data."""


class CorruptData(CorruptBlock):
    """A block of file data fails its checksum. Only that file has lost anything; any other
    ``CorruptBlock`` ends writing.
    """


class VolumeBusy(SnapfsError):
    """Another process has the image open; the message says which."""


class CopyError(SnapfsError):
    """A full copy that cannot be made, or gone on with."""


class Occupied(SnapfsError):
    """Something is there that is not overwritten unless that is asked for."""


class UsageError(SnapfsError):
    """An argument that cannot be."""


class MountFailed(SnapfsError):
    """The system does not mount."""


class UnmountFailed(SnapfsError):
    """A mount that cannot be unmounted."""


class MountBusy(UnmountFailed):
    """Somebody uses the mount."""


class MountCovered(UnmountFailed):
    """The mount cannot be reached: something else is mounted over it, or
    over a directory above it.
    """


class SnapshotError(SnapfsError):
    """A snapshot operation that cannot be done."""


class NoSuchSnapshot(SnapshotError):
    """No live instance has that name."""


class NameTaken(SnapshotError):
    """A live instance has that name already."""


class BadName(SnapshotError):
    """Not a name for a snapshot."""


class TooManySnapshots(SnapshotError):
    """Every bit of the counting bitmap is in use."""


class SnapshotBusy(SnapshotError):
    """The instance is being deleted, or is in use in a way that forbids this."""


class MountsInside(SnapshotError):
    """Something is mounted on a directory or a file that a restore would put another one in the
    place of.
    """


class SnapshotHeld(SnapshotError):
    """Somebody holds the snapshot: it cannot be deleted before it is released."""


class NoSuchFact(SnapshotError):
    """The snapshot has no such hold or tag."""


class FsError(SnapfsError):
    """A file operation that ends with an errno."""


class NotFound(FsError):
    """ENOENT"""


class Exists(FsError):
    """EEXIST"""


class NotDirectory(FsError):
    """ENOTDIR"""


class IsDirectory(FsError):
    """EISDIR"""


class NotEmpty(FsError):
    """ENOTEMPTY"""


class CrossView(FsError):
    """EXDEV: rename or link between two views."""


class NotPermitted(FsError):
    """EPERM"""


class AccessDenied(FsError):
    """EACCES"""


class InvalidArgument(FsError):
    """EINVAL"""


class NameTooLong(FsError):
    """ENAMETOOLONG"""


class TooManyLinks(FsError):
    """EMLINK"""


class FileTooBig(FsError):
    """EFBIG"""


class NoAttribute(FsError):
    """ENODATA"""


class NotSupported(FsError):
    """EOPNOTSUPP"""


class TooBig(FsError):
    """E2BIG: an extended attribute value above the limit."""


class OutOfRange(FsError):
    """ERANGE"""


class StaleInode(FsError):
    """ESTALE: the inode, or its whole view, is gone."""


class NoSpace(FsError):
    """ENOSPC"""


class ReadOnly(FsError):
    """EROFS"""
