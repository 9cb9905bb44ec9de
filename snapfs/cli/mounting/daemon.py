"""Putting a mount behind: fork, and let the caller go when it is live, or with the reason why it is
not.

The process forks before it has loaded an event loop or opened the image, so that threads,
descriptors and the image's lock belong to the daemon alone.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from snapfs.cli.descriptors import Open, close_inherited, inherited
from snapfs.cli.exits import MOUNT_FAILED, MOUNT_SYSTEM, OK, CommandFailed, describe_unexpected

#: Runs until the mount ends; calls its argument when it is live. Raises ``CommandFailed`` for what
#: the user should read.
Work = Callable[[Callable[[], None]], None]


def start(work: Work) -> int:
    """Run ``work`` in a process of its own, and return when it is live. Raises ``CommandFailed``
    when it did not get there.
    """
    callers = inherited()
    reader, writer = os.pipe()
    try:
        child = os.fork()
    except OSError as exc:
        raise CommandFailed(f"no process for the daemon: {exc.strerror}", MOUNT_SYSTEM) from exc
    if child == 0:
        os.close(reader)
        _daemon(work, writer, callers)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            answer = pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(
            child, 0
        )  # or its mount would still be there for a moment; another interrupt ends this
        raise
    try:
        outcome = json.loads(answer)
    except ValueError:
        raise CommandFailed(
            f"the daemon (process {child}) ended before the mount was live: see the system's log",
            MOUNT_FAILED,
        ) from None
    if outcome["code"] != OK:
        raise CommandFailed(outcome["message"], outcome["code"])
    return OK


def _daemon(work: Work, writer: int, callers: list[Open]) -> NoReturn:
    """The child: leaves the session, the terminal, the working directory and the caller's
    descriptors when it is live.

    Not earlier: an automounter that has asked for the mount lets only its own process group pass to
    the mount point until it is there.
    """
    code = MOUNT_FAILED
    told = False

    def tell(code: int, message: str) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writer, json.dumps({"code": code, "message": message}).encode())
            os.close(writer)

    def live() -> None:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        close_inherited(
            callers
        )  # a lock or a pipe of the caller's would not end before the mount does
        tell(OK, "")

    try:
        work(live)
        code = OK
    except CommandFailed as exc:
        code = exc.code
        tell(code, str(exc))
    except BaseException as exc:  # noqa: BLE001 - whatever it is, the caller waits for the reason
        tell(code, describe_unexpected(exc))
    finally:
        # Nothing of the caller's may run here: its buffers, its exit handlers.
        os._exit(code)
