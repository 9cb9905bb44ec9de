"""Inodes, directories, file data, extended attributes, views and orphans: the files of a volume,
without a kernel.
"""

from snapfs.filesystem.filesystem import Filesystem
from snapfs.filesystem.inode import Inode
from snapfs.filesystem.names import Entry
from snapfs.filesystem.reading import ReadPlan
from snapfs.filesystem.setting import Changes
from snapfs.filesystem.sizes import Statfs
from snapfs.filesystem.view import View

__all__ = ["Changes", "Entry", "Filesystem", "Inode", "ReadPlan", "Statfs", "View"]
