"""The life of a daemon: opens the image (``before_mount``), mounts, serves, and lets go in order.

Runs in the daemon's process. This is where trio and pyfuse3 are loaded.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import snapfs
from snapfs.cli import exits
from snapfs.cli.exits import CommandFailed
from snapfs.cli.mounting import faults, stderr
from snapfs.cli.mounting.on_demand import OnDemand
from snapfs.control.socket import mounts
from snapfs.errors import AccessDenied, SnapfsError, UsageError
from snapfs.fuse.tracing.record import SIZE

if TYPE_CHECKING:
    import trio

    from snapfs.cli.mounting.source import Source
    from snapfs.copying import CopyJob
    from snapfs.device import Pinned
    from snapfs.filesystem import Filesystem
    from snapfs.fuse.driving.edge import Edge
    from snapfs.fuse.mount.further import FurtherMounts, Mounter
    from snapfs.fuse.options import MountOptions
    from snapfs.fuse.tracing.tracer import Tracer

log = logging.getLogger("snapfs")


def serve(
    source: Source,
    mountpoint: str,
    options: MountOptions,
    live: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Mount and serve until unmounted. ``live`` is called when the mount is usable; before it,
    ``say`` with each warning of the log.

    Raises ``CommandFailed``.
    """
    image = source.given
    kind = ", in memory: all of it is gone when it is unmounted" if source.in_memory else ""
    is_live = False
    warnings: list[str] = []

    def warn(line: str) -> None:
        log.warning("%s: %s", image, line)
        warnings.append(f"{image}: {line}")

    # libfuse and fusermount3 give their reasons on standard error, where only one line of ours may
    # appear.
    log.setLevel(options.loglevel.upper())
    with OnDemand() as on_demand, stderr.captured() as complaints:

        def ready() -> None:
            nonlocal is_live
            is_live = True
            complaints.release()
            for line in warnings:
                say(line)
            log.info("%s: mounted on %s%s", image, mountpoint, kind)
            live()

        try:
            _serve(source, mountpoint, options, ready, warn, on_demand)
        except BaseException as exc:
            failure = explain(_single(exc), complaints.text())
            if is_live:
                log.critical("%s: the mount on %s has ended: %s", image, mountpoint, failure)
            raise failure from exc
    log.info(
        "%s: unmounted from %s%s",
        image,
        mountpoint,
        ", and gone with all that was in it" if source.in_memory else "",
    )


def _serve(
    source: Source,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
    warn: Callable[[str], None],
    on_demand: OnDemand,
) -> None:
    from snapfs.cli.mounting.before_mount import opened
    from snapfs.copying.unfinished import UnfinishedCopy
    from snapfs.device import ImageDevice

    device = source.open(read_only=options.read_only, interval=options.mmp, warn=warn)
    if isinstance(device, UnfinishedCopy) and not options.read_only:
        options = replace(options, read_only=True)
        warn(
            "this copy is not complete: it is mounted read-only; once it is complete, "
            "mount it again to write"
        )
    if options.fsname is None:
        options = replace(options, fsname=source.in_mountinfo)
    if options.discard is None:
        options = replace(options, discard=source.in_memory)
    try:
        assert isinstance(device, ImageDevice | UnfinishedCopy)  # noqa: S101 - what ``open`` gives
        status = device.status()
        with faults.noticed(status):
            fs, job = opened(device, options, warn)
            _run(fs, source, status, mountpoint, options, ready, job, on_demand)
            fs.volume.close()
    finally:
        device.close()


def _run(
    fs: Filesystem,
    source: Source,
    status: os.stat_result,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
    job: CopyJob | None,
    on_demand: OnDemand,
) -> None:
    import trio

    from snapfs.control.commands.handlers import Handlers, Live
    from snapfs.control.commands.measured import Measured
    from snapfs.control.commands.showing import Showing
    from snapfs.control.commands.tracing import Tracing
    from snapfs.control.copies.behind import Behind
    from snapfs.control.copies.copying import Copying
    from snapfs.control.socket import registry
    from snapfs.control.socket.protocol import ControlError
    from snapfs.control.socket.server import ControlServer
    from snapfs.fuse.inside.report import Report
    from snapfs.fuse.mount import mounting
    from snapfs.fuse.options import LOG_LEVELS, parse_options

    tracer = _tracer(fs, source, mountpoint, options)
    servers: list[ControlServer] = []
    copying: list[Copying] = []

    async def attach(
        edge: Edge, nursery: trio.Nursery, mount_device: int, further: FurtherMounts
    ) -> None:
        """Start to listen, once the kernel knows the mount."""
        about = f"{source.shown} on {mountpoint} (process {os.getpid()})"
        on_demand.begin(trio.lowlevel.current_trio_token(), Report(edge, about))
        live = Live(
            mountpoint, source.shown, os.getpid(), time.time_ns(),
            lambda: {name: count for name, count in edge.requests.items() if count},
            mount_device,
            in_memory=source.in_memory, snapdir=options.snapdir,
        )  # fmt: skip
        handlers = Handlers(edge, fs, live, shown_owner=options.uid, job=job)
        copying.append(handlers.copying)
        nursery.start_soon(Behind(handlers.copying).run)

        def place() -> str:
            handlers.copying.publish_again()  # their names are where the socket is
            return registry.new_socket_path(status, mount_device)

        async def show(name: str, where: str, words: str, mount: Mounter) -> None:
            await further.show(name, where, parse_options(words), mount)

        key = registry.socket_key(status, mount_device)
        measured = Measured(Showing(handlers, show), edge.metrics.figures, LOG_LEVELS)
        answers = Tracing(measured, tracer, mount_device)
        try:
            server = ControlServer(answers, place(), anew=place, key=key)
        except ControlError as exc:
            log.warning(
                "%s; commands find the daemon by an abstract name, unless they are in "
                "another network namespace",
                exc,
            )
            try:
                server = ControlServer(answers, None, anew=place, key=key)
            except ControlError as other:
                # The files are what matters; commands will say that the daemon cannot be asked.
                log.warning("%s", other)
                return
        servers.append(server)
        nursery.start_soon(server.run)

    try:
        trio.run(mounting.serve, fs, mountpoint, options, ready, attach, tracer)
    finally:
        on_demand.end()
        tracer.end()
        for server in servers:
            server.close()
        for one in copying:
            one.close()


def _tracer(fs: Filesystem, source: Source, mountpoint: str, options: MountOptions) -> Tracer:
    """The trace of a mount that is about to begin, on if that is wanted. Raises ``UsageError``."""
    from snapfs.fuse.tracing.tracer import Tracer

    def facts() -> dict[str, Any]:
        volume = fs.volume
        return {
            "snapfs": snapfs.__version__,
            "kernel": os.uname().release,
            "image": source.shown,
            "mountpoint": mountpoint,
            "pid": os.getpid(),
            "uid": os.geteuid(),
            "uuid": str(volume.uuid),
            "generation": volume.generation,
            "is_saved": not volume.unsaved,
            "options": {
                **asdict(options),
                "kernel": sorted(options.kernel),
                **dict.fromkeys(("restore", "trace", "trace_size", "trace_data")),
            },
        }

    def check(pinned: Pinned) -> None:
        if mounts.is_below(os.path.realpath(pinned.directory_place), mountpoint):
            raise UsageError(
                f"{pinned.path}: would be hidden below the mount: choose a place outside of it"
            )

    tracer = Tracer(facts)
    if options.trace is not None:
        size = SIZE if options.trace_size is None else options.trace_size
        has_data = options.trace_data == "all"
        tracer.begin(tracer.prepare(options.trace, size, check, has_data=has_data))
    return tracer


def explain(exc: BaseException, complaint: str) -> CommandFailed:
    """The line and exit code for what ended a mount; ``complaint`` is what libfuse and fusermount3
    said meanwhile.
    """
    if isinstance(exc, CommandFailed):
        return exc
    if isinstance(exc, UsageError | AccessDenied):
        return CommandFailed(str(exc), exits.MOUNT_USAGE)
    if isinstance(exc, SnapfsError):
        return CommandFailed(str(exc), exits.MOUNT_FAILED)
    if isinstance(exc, KeyboardInterrupt):
        return CommandFailed("interrupted", exits.MOUNT_FAILED)
    if isinstance(exc, MemoryError) or (
        isinstance(exc, OSError) and exc.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    ):
        return CommandFailed(f"the system is out of resources: {exc}", exits.MOUNT_SYSTEM)
    if complaint:
        return CommandFailed(f"mounting failed: {complaint}", exits.MOUNT_FAILED)
    if isinstance(exc, OSError):
        return CommandFailed(exits.describe_os_error(exc), exits.MOUNT_FAILED)
    return CommandFailed(exits.describe_unexpected(exc), exits.MOUNT_FAILED)


def _single(exc: BaseException) -> BaseException:
    """The error that a nursery wrapped; of several, one that was raised on purpose."""
    while isinstance(exc, BaseExceptionGroup):
        on_purpose = [
            inner
            for inner in exc.exceptions
            if isinstance(inner, SnapfsError | CommandFailed | BaseExceptionGroup)
        ]
        exc = (on_purpose or list(exc.exceptions))[0]
    return exc
