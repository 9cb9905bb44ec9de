"""What each mount option of ours means, for people: the reference is made from it, and a test
holds it against the options' table.

The texts are Markdown. Options that only cancel another one have no text of their own: ``CANCELS``
names what they cancel.
"""

from __future__ import annotations

from typing import Final

MEANINGS: Final = {
    "ro": "The volume is not changed through this mount.",
    "rw": "The volume can be changed (the default).",
    "restore": "Go back to this snapshot before mounting, instead of what is scheduled.",
    "snapshot": (
        "Show this snapshot instead of the live tree. What is written changes the snapshot, "
        "unless the snapshot or the mount is read-only. While the volume is mounted, the "
        "running daemon serves this mount, and it is read-only."
    ),
    "snapdir": (
        "Another name for `.snap`. An entry of the volume that has this name is hidden, which "
        "is said when it is mounted or listed."
    ),
    "snapshow": (
        "Show `.snap` in listings of the mount's root. The directory is in every directory all "
        "the same; if it were listed there, copying or removing a directory with all that is in"
        " it would go on into its snapshots."
    ),
    "snapro": (
        "All snapshots are read-only through this mount; they are made, renamed and deleted as "
        "ever."
    ),
    "snapsuid": (
        "Set-id bits, capabilities and device nodes in snapshots count as in the live tree."
    ),
    "commit": (
        "How often changes become durable by themselves (default 5); fsync(2) does it at once."
    ),
    "mmp": (
        "How often other hosts are told that the volume is in use (1 to 60, default 5). `off` "
        "is for storage that no other host can reach."
    ),
    "noatime": "Access times are not renewed.",
    "nodiratime": "Access times of directories are not renewed.",
    "noxattr": "There are no extended attributes, and with them no access control lists.",
    "sync": "Every change is durable when it is answered.",
    "dirsync": "Every change of names is durable when it is answered.",
    "writeback": (
        "`on`: the kernel collects what is written and sends it later (the default). `off`: it "
        "sends each write at once. Then write(2) itself reports a lack of space, and renaming "
        "and removing files is quicker."
    ),
    "cache": (
        "Memory for metadata that could be read again (default 40M). Where it is given, the "
        "kernel is asked to let go of what nobody uses beyond one inode for each KiB, instead "
        "of beyond a million."
    ),
    "polling": (
        "`on`: after a request, look for the next one for 0.1 ms before sleeping (the default);"
        " most operations are twice as quick. Never done on a single processor."
    ),
    "requests": (
        "Who reads requests: snapfs (`direct`, the default), or pyfuse3, which is slower; to "
        "find out what is at fault."
    ),
    "trace": (
        "Record every request of the kernel, with its answer, in this new file; `snapfs trace "
        "show` prints it. A trace of before that has this name is named `FILE.old`. `snapfs trace "
        "on` does the same while the volume is mounted."
    ),
    "trace_size": (
        "How much of the trace is kept, the newest requests (default `16M`, about 60000 requests)."
    ),
    "trace_data": (
        "What of written data is recorded: length and checksum (`checksum`, the default), or `all`."
    ),
    "loglevel": (
        "What the daemon logs: what is as important as this, or more (default `info`). `snapfs "
        "loglevel` changes it while the volume is mounted."
    ),
    "logfile": (
        "Append the log to this file, instead of giving it to syslog, or to standard error with "
        "`-f`. It may be renamed at any time: then the daemon makes it anew."
    ),
    "autodelete": (
        "`oldest`: when space runs out, delete the oldest snapshots that a policy made. `none`:"
        " delete none (the default)."
    ),
    "autodelete_below": (
        "With `autodelete=oldest`: delete as soon as less than this is available (default 5; 0:"
        " when there is none)."
    ),
    "discard": (
        "Give the space of what is freed back to the host (the default for volumes in memory only)."
    ),
    "allow_other": "Other users may use the mount; the permissions of the files count.",
    "allow_root": "Root may use the mount, too.",
    "uid": "The owner that every file shows.",
    "gid": "The group that every file shows.",
    "umask": "Permissions that no file shows.",
    "fsname": "The source that mount(8) and `/proc/mounts` show, instead of the image.",
    "noexec": "Nothing in the mount is executed.",
    "nosuid": "Set-id bits and capabilities do not count.",
    "nodev": "Device nodes do not count.",
}

#: Option -> the one that it cancels.
CANCELS: Final = {
    "nosnapshow": "snapshow",
    "nosnapro": "snapro",
    "nosnapsuid": "snapsuid",
    "xattr": "noxattr",
    "user_xattr": "noxattr",
    "atime": "noatime",
    "relatime": "noatime",
    "diratime": "nodiratime",
    "nodiscard": "discard",
}
