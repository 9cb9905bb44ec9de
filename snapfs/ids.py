"""Numbers that have a meaning everywhere: reserved inode numbers, view ids and their limits.

Nothing else may live here; byte layouts belong to ``blocks``.
"""

from typing import Final

#: Inode number of every view's root directory; also the number the kernel gives to a FUSE root.
ROOT_INO: Final = 1

#: Inode number of the hidden directory that lists unlinked inodes which are still in use or not yet
#: freed.
ORPHANS_INO: Final = 2

#: Inode number of the hidden directory that lists designated directories, in views that have had
#: any.
DESIGNATED_INO: Final = 3

#: Directories that no name leads to.
HIDDEN_INOS: Final = frozenset({ORPHANS_INO, DESIGNATED_INO})

#: First inode number that files get.
FIRST_INO: Final = 16

#: Inode numbers stay below this; the bit above marks ``.snap`` directories in the kernel's numbers.
INO_LIMIT: Final = 1 << 47

#: Id of the base view. Instances have the ids 1 to ``MAX_INSTANCES``: the number of their bit.
BASE_VIEW: Final = 0

#: An instance's bit must fit a holder mask of half a 4 KiB block, and its id 16 bits of a kernel
#: inode number.
MAX_INSTANCES: Final = 16_000

#: Longest name of a directory entry and of a snapshot, in bytes.
NAME_MAX: Final = 255

#: Longest symbolic link target, in bytes (the kernel's PATH_MAX less its terminator).
SYMLINK_MAX: Final = 4095

#: Largest file, in bytes: what the kernel takes for the limit of every FUSE filesystem. With its
#: writeback cache it would accept what lies behind a smaller one, and say later that it is lost.
FILE_SIZE_MAX: Final = (1 << 63) - 1

#: ext4's limit is 65,000; nothing here needs a limit below the counter's width.
LINK_MAX: Final = 0xFFFF_FFFF
