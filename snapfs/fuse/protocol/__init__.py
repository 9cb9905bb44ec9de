"""The kernel's protocol: layouts, the connection, notifications, inode numbers, errno."""
