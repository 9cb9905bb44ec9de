"""``snapfs copy``: a full copy of a volume as it is now, usable at once, filled behind; and
``snapfs copy status|pause|resume|cancel``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from snapfs.cli import output, shown_copy
from snapfs.cli.arguments import Parser, add_json, add_timeout, size
from snapfs.cli.exits import ERROR, INTERRUPTED, OK, USAGE, CommandFailed, report
from snapfs.cli.paths import PATHS_HELP, all_in_volume
from snapfs.cli.target import locate, session
from snapfs.cli.waiting import patience
from snapfs.control.copies.memory import resolve
from snapfs.control.socket.mounts import mounts
from snapfs.control.socket.protocol import NO_LIMIT
from snapfs.device.base import is_memory, lasting_path
from snapfs.errors import SnapfsError, VolumeBusy
from snapfs.printable import quoted

if TYPE_CHECKING:
    from snapfs.blocks.copy_mark import CopyMark

Document = dict[str, Any]

ACTIONS: Final = ("status", "pause", "resume", "cancel")

#: States in which a copy gets no further by itself.
_ENDED: Final = ("complete", "failed", "cancelled", "none", "interrupted")

#: Seconds that an interrupted command still asks what becomes of its copy; that a daemon is asked
#: that may have nothing to do with it.
LAST_SECONDS: Final = 10.0
OTHERS_SECONDS: Final = 5.0

#: Seconds between two looks at a copy that is waited for.
_LOOK_SECONDS: Final = 0.25


def configure(parser: Parser) -> None:
    """Declare the arguments."""
    parser.usage = (
        "snapfs copy SOURCE DEST [--first PATH ...] [--map on-volume|outside] [--rate "
        "BYTES] [--on-error copy|write] [--force] [--wait] "
        "[--timeout SECONDS] [--json]\n       snapfs copy status|pause|resume|cancel "
        "TARGET [--wait] [--timeout SECONDS] [--json]"
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="an image, a mount point, or any path in a mount; or one of the words above",
    )
    parser.add_argument(
        "destination",
        metavar="DEST",
        help="an image file to make, a block device, or mem:NAME; TARGET: source or target "
        "of the copy",
    )
    parser.add_argument(
        "--first",
        metavar="PATH",
        nargs="+",
        action="extend",
        default=[],
        help="files and directories that are copied before it returns",
    )
    parser.add_argument(
        "--map",
        choices=("on-volume", "outside"),
        help="where it is noted what is copied: in blocks of the source (default if it is "
        "mounted), or in a file",
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="BYTES",
        help="copy at most so much in a second behind, with K, M or G; 'max': no limit",
    )
    parser.add_argument(
        "--on-error",
        choices=("copy", "write"),
        help="what fails when the target does (default: the copy)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    parser.add_argument("--wait", action="store_true", help="return when the copy is complete")
    add_timeout(parser)
    add_json(parser)
    parser.epilog = (
        "Of a mounted volume the target is this moment when the command returns, and is "
        "filled behind; of an image it is complete then. "
        "Until it is, it can be mounted to be read. Exit codes: 0 done, 1 error (also a "
        "copy that has failed), 2 usage. " + PATHS_HELP
    )


def _rate(text: str) -> int:
    """0 copies nothing behind; without a limit, as it travels."""
    if text in ("0", "max"):
        return {"0": 0, "max": NO_LIMIT}[text]
    try:
        return size(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a rate: give bytes in a second, with K, M or G, or 0, or 'max'"
        ) from None


def run(arguments: argparse.Namespace) -> int:
    """Copy, or ask about a copy."""
    try:
        return _act(arguments) if arguments.source in ACTIONS else _copy(arguments)
    except KeyboardInterrupt:
        report(_interrupted(arguments))
        return INTERRUPTED


def _copy(arguments: argparse.Namespace) -> int:
    destination = _destination(arguments.destination)
    with (
        session(
            arguments.source, write=arguments.map == "on-volume", timeout=arguments.timeout
        ) as volume,
        shown_copy.progress() as told,
    ):
        result = volume.call(
            "copy",
            told=told,
            destination=destination,
            first=all_in_volume(arguments.first, volume),
            outside=None if arguments.map is None else arguments.map == "outside",
            rate=arguments.rate,
            copy_first=arguments.on_error == "write",
            force=arguments.force,
        )
        if arguments.wait and volume.mountpoint is not None:
            result = _waited(volume.call, result["id"], told)
        mountpoint = volume.mountpoint
    return _report(arguments, result, mountpoint)


def _interrupted(arguments: argparse.Namespace) -> str:
    """What becomes of it: a daemon gives up what it was setting up and goes on with any other copy;
    a command's own can be resumed.
    """
    begins = arguments.source not in ACTIONS
    if not begins and arguments.source != "resume":
        return "interrupted"
    with contextlib.suppress(SnapfsError, CommandFailed):
        source, mark = (
            (arguments.source, None)
            if begins
            else _source_of(arguments.destination, LAST_SECONDS, hurried=True)
        )
        destination = _destination(arguments.destination) if begins or mark is not None else None
        with session(source, write=False, timeout=LAST_SECONDS, hurried=True) as volume:
            is_mounted, found = volume.mountpoint is not None, volume.call("copy.status")
            destination = destination or found.get("destination")
            if (
                is_mounted
                and begins
                and (found["state"], found.get("destination")) == ("setting up", destination)
            ):
                volume.call("copy.cancel", told=lambda _event: None)
                return f"interrupted: the copy to {destination} is cancelled"
        if destination is None:
            return "interrupted"
        if is_mounted and found["state"] not in _ENDED and found.get("destination") == destination:
            return (
                f"interrupted; the copy to {destination} goes on: 'snapfs copy cancel "
                f"{quoted(destination)}' would end it"
            )
        if not is_mounted and _unfinished(destination):
            return f"interrupted: 'snapfs copy resume {quoted(destination)}' goes on with the copy"
    return "interrupted"


def _unfinished(destination: str) -> bool:
    from snapfs.copying import mark_of

    mark = mark_of(destination)
    return mark is not None and mark.state == "filling"


def _act(arguments: argparse.Namespace) -> int:
    action, target = arguments.source, arguments.destination
    if (
        arguments.first
        or arguments.map
        or arguments.force
        or arguments.on_error
        or (arguments.rate is not None and action != "resume")
    ):
        rate = "--rate, " if action == "resume" else ""
        raise CommandFailed(
            f"snapfs copy {action} takes a target, {rate}--wait and --json only", USAGE
        )
    if action == "cancel" and is_memory(target):
        return _report(arguments, _cancel_in_memory(target, arguments.timeout), None)
    source, mark = _source_of(target, arguments.timeout)
    try:
        result, mountpoint = _ask(arguments, source, mark)
    except VolumeBusy:
        if action != "status" or mark is None:
            raise
        result, mountpoint = (
            {"state": "none"},
            None,
        )  # whoever reads it, or fills it, keeps its source from being looked at
    if result["state"] == "none" and mark is not None:
        result = _of_mark(target, mark)
    return _report(arguments, result, mountpoint)


def _ask(
    arguments: argparse.Namespace, source: str, mark: CopyMark | None
) -> tuple[Document, str | None]:
    """Have it done; what has become of the copy, and where its source is mounted."""
    action = arguments.source
    write = action != "status" and (mark is None or mark.registered)
    with (
        session(source, write=write, go_on=action != "cancel", timeout=arguments.timeout) as volume,
        shown_copy.progress() as told,
    ):
        if action == "resume":
            destination = lasting_path(arguments.destination) if mark is not None else None
            result = volume.call(
                "copy.resume", told=told, destination=destination, rate=arguments.rate
            )
        elif action == "cancel":
            result = volume.call("copy.cancel", told=told)
        else:
            result = volume.call(f"copy.{action}")
        if arguments.wait and volume.mountpoint is not None and action != "cancel":
            result = _waited(volume.call, result.get("id"), told)
        return result, volume.mountpoint


def _source_of(
    target: str, timeout: float | None, *, hurried: bool = False
) -> tuple[str, CopyMark | None]:
    """The volume that a copy is of, whichever of the two was named; and the mark of an unfinished
    copy, if it was that.
    """
    from snapfs.copying import mark_of

    image = resolve(target)
    mount = locate(target, patience(timeout))
    if mount is not None:
        with session(target, write=False, timeout=timeout, hurried=hurried) as volume:
            image = volume.call("hello")["image"]
    mark = None if is_memory(image) else mark_of(image)
    return (target, None) if mark is None else (os.fsdecode(mark.source), mark)


def _cancel_in_memory(target: str, timeout: float | None) -> Document:
    """Have whichever daemon it is give up a copy in its memory. One that does not answer is not
    asked for long: it may be of any volume.
    """
    limit = min(OTHERS_SECONDS, timeout or OTHERS_SECONDS)
    for mount in mounts():
        if mount.is_ours:
            with (
                contextlib.suppress(SnapfsError, OSError),
                session(mount.path, write=True, timeout=limit, hurried=True) as volume,
            ):
                return volume.call("copy.cancel", told=lambda _event: None, name=target)
    raise CommandFailed(f"{target}: no daemon has such a copy in its memory")


def _of_mark(target: str, mark: CopyMark) -> Document:
    return {
        "state": "failed" if mark.state == "failed" else "interrupted",
        "id": mark.id.hex(),
        "source": os.fsdecode(mark.source),
        "destination": lasting_path(target),
        "generation": mark.generation,
        "copied": None,
        "total": None,
        "since_ns": None,
        "rate": None,
        "on_error": None,
        "map": os.fsdecode(mark.map_path) or "on-volume",
        "registered": mark.registered,
        "reason": mark.reason or None,
    }


def _destination(path: str) -> str:
    """As the daemon, which is somewhere else, understands it."""
    if is_memory(path):
        return path
    if path.endswith("/") and not os.path.isdir(path):
        raise CommandFailed(f"{path}: is the name of a directory: name the file to make", USAGE)
    return lasting_path(path)


def _waited(
    call: Callable[..., Document], copy_id: str | None, told: Callable[[Document], None]
) -> Document:
    """The state of the copy when it gets no further."""
    while True:
        result = call("copy.status")
        if result["state"] in _ENDED or result.get("id") != copy_id:
            return result
        told(result)
        # Asked, not told: the copy goes on in the daemon whoever waits for it, and Ctrl-C ends
        # nothing but the waiting.
        time.sleep(_LOOK_SECONDS)


def _report(arguments: argparse.Namespace, result: Document, mountpoint: str | None) -> int:
    """Say what has become of a copy; the exit code."""
    asked = arguments.source if arguments.source in ACTIONS else None
    if arguments.json:
        shown_copy.print_document(result, mountpoint)
    elif result["state"] == "none":
        output.line(f"{arguments.destination}: no copy is running")
    elif asked == "status":
        output.print_facts(shown_copy.facts(result))
    elif result["state"] != "failed":
        output.line(shown_copy.line(result, begun=asked is None))
    if result["state"] == "failed":
        if not arguments.json and asked != "status":
            report(f"the copy has failed: {result['reason']}")
        return ERROR
    return OK
