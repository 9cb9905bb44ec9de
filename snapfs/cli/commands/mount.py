"""``snapfs mount`` and ``mount.snapfs``: checks what can be known beforehand, then starts the
daemon.

All of it runs without trio and pyfuse3, which only the daemon's process loads.
"""

from __future__ import annotations

import argparse
import errno
import getopt
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Final

from snapfs.cli.arguments import Parser
from snapfs.cli.exits import MOUNT_FAILED, MOUNT_SYSTEM, MOUNT_USAGE, OK, CommandFailed, report
from snapfs.cli.mounting import (
    beside,
    daemon,
    logs,
    mountpoint,
    source,
)
from snapfs.cli.mounting.notify import notify
from snapfs.control.socket import mounts

#: What opening an image ends with that is not there (yet): for ``nofail``.
_MISSING: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM)

#: Where the administrator allows users to let others in.
FUSE_CONF: Final = "/etc/fuse.conf"


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help="an image file, a block device, or mem:SIZE: a new volume in memory, gone when "
        "unmounted",
    )
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument(
        "-o",
        dest="options",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="mount options, with commas between",
    )
    parser.add_argument(
        "--load",
        metavar="FILE",
        help="with mem: as IMAGE: start with what is in this image, which is only read",
    )
    parser.add_argument(
        "-f",
        "--foreground",
        action="store_true",
        help="stay in front, log to standard error; SIGTERM unmounts",
    )


def run_helper(words: Sequence[str]) -> int:
    """``mount.snapfs IMAGE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]``, as mount(8)
    calls it.
    """
    try:
        options, places = getopt.gnu_getopt(list(words), "sfnvrwN:t:o:")
    except getopt.GetoptError as exc:
        raise CommandFailed(str(exc), MOUNT_USAGE) from exc
    if len(places) != 2:
        raise CommandFailed("usage: mount.snapfs IMAGE MOUNTPOINT [-o OPTIONS]", MOUNT_USAGE)
    flags = {flag for flag, _ in options}
    if "-f" in flags:  # fake: mount(8) wants to know what would happen, and nothing to happen
        return OK
    texts = [value for flag, value in options if flag == "-o"]
    texts += [name for flag, name in (("-r", "ro"), ("-w", "rw")) if flag in flags]
    return run(
        argparse.Namespace(
            image=places[0], mountpoint=places[1], options=texts, foreground=False, load=None
        )
    )


def run(arguments: argparse.Namespace) -> int:
    """Mount. Returns when the mount is live; in the foreground, when it has ended."""
    from snapfs.fuse.options import parse_options

    image = source.parse(arguments.image, arguments.load)
    words = [word for text in arguments.options for word in text.split(",") if word]
    remount = "remount" in words
    options = parse_options(",".join(word for word in words if word != "remount"))
    place = mounts.canonical(arguments.mountpoint)
    if remount:
        return _remount(place, read_only=options.read_only)
    mountpoint.check(arguments.mountpoint, image, options)
    if not image.in_memory:
        if "nofail" in words and _is_missing(image.given):
            return OK  # as of all filesystems, see mount(8)
        running = beside.running(image.given, options)
        if running is not None:
            with running:
                beside.check(running, image.given, options, foreground=arguments.foreground)
                while (dead := mountpoint.check(arguments.mountpoint, image, options)) is not None:
                    mountpoint.take_away(dead)
                return beside.mount(running, options, place, ",".join(words))
    _check_system(allow_others=options.allow_other or options.allow_root)
    while (
        dead := mountpoint.check(arguments.mountpoint, image, options)
    ) is not None:  # there may be one below
        mountpoint.take_away(dead)

    def work(live: Callable[[], None], say: Callable[[str], None]) -> None:
        from snapfs.cli.mounting.serving import serve

        serve(image, place, options, live, say)

    if not arguments.foreground:

        def behind(live: Callable[[], None]) -> None:
            if options.logfile is None:
                logs.log_to_syslog()
            else:
                logs.log_to_file(options.logfile)
            work(live, report)

        return daemon.start(behind)
    if options.logfile is None:
        logs.log_to_stderr()
    else:
        logs.log_to_file(options.logfile)
    try:
        work(lambda: notify("READY=1"), lambda _line: None)  # standard error is where the log goes
    finally:
        notify("STOPPING=1")
    return OK


def _is_missing(image: str) -> bool:
    """What ``nofail`` is for: there is no such file, or no such device behind it."""
    try:
        os.close(os.open(image, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as exc:
        return exc.errno in _MISSING
    return False


def _remount(mountpoint: str, *, read_only: bool) -> int:
    """``-o remount``: never mounts a second time; what already is so is done, what would have to
    change is refused.
    """
    mount = mounts.mount_at(mountpoint)
    if mount is None or not mount.is_ours:
        raise CommandFailed(f"{mountpoint}: no snapfs volume is mounted there", MOUNT_FAILED)
    if read_only == ("ro" in mount.options):
        return OK
    raise CommandFailed(
        f"{mountpoint}: the options of a mounted volume cannot be changed: unmount it "
        "and mount it again",
        MOUNT_FAILED,
    )


def _check_system(*, allow_others: bool) -> None:
    """What libfuse would fail for with words of its own."""
    if not os.path.exists("/dev/fuse"):
        raise CommandFailed(
            "/dev/fuse is missing: load the module (modprobe fuse), or give the "
            "container that device",
            MOUNT_SYSTEM,
        )
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise CommandFailed("fusermount3 is missing: install the package fuse3", MOUNT_SYSTEM)
    if allow_others and not _users_may_allow_others():
        raise CommandFailed(
            f"allow_other and allow_root need the line 'user_allow_other' in {FUSE_CONF}",
            MOUNT_USAGE,
        )


def _users_may_allow_others() -> bool:
    try:
        with open(FUSE_CONF, encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False
