"""What goes over a daemon's socket: one JSON object per line, a request, then its answer; before
that, events if the work takes long.

::

    {"v": 1, "command": "snapshot.rename", "arguments": {"name": "a", "new_name": "b"}}
    {"v": 1, "event": {...}}
    {"v": 1, "result": {...}}
    {"v": 1, "error": {"kind": "NameTaken", "message": "..."}}

An error's kind is the name of its class in ``snapfs.errors``, so that a command ends the same way
whether a daemon was asked or the image opened. Lines are bounded, and nothing is believed before it
has been checked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from snapfs.errors import SnapfsError

VERSION: Final = 1

#: The command that serves a snapshot beside the volume; see ``showing``.
MOUNT_SNAPSHOT: Final = "snapshot.serve"

#: Longest request and longest answer, in bytes with the newline: 16,000 snapshots named, and
#: listed, which takes about 8 MiB.
REQUEST_LIMIT: Final = 1 << 20
ANSWER_LIMIT: Final = 32 << 20

#: What a handler returns and a client gets: a JSON object.
Result = dict[str, Any]


class ControlError(SnapfsError):
    """The daemon cannot be asked, or one side does not understand the other."""


#: A rate that limits nothing, where None leaves it as it is.
NO_LIMIT: Final = -1


@dataclass(frozen=True)
class Request:
    """A request as received: well-formed, its arguments not yet looked at."""

    command: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Event:
    """What a daemon tells about work that goes on. Its meaning is the command's."""

    content: dict[str, Any]


def encode_request(command: str, arguments: dict[str, Any]) -> bytes:
    """The line for a request. Raises ``ControlError`` when it is too long."""
    line = _line({"command": command, "arguments": arguments})
    if len(line) > REQUEST_LIMIT:
        raise ControlError(f"the request is longer than {REQUEST_LIMIT} bytes: split it")
    return line


def decode_request(line: bytes) -> Request:
    """Raises ``ControlError`` for anything but a request of this version."""
    message = _message(line)
    command, arguments = message.get("command"), message.get("arguments")
    if not isinstance(command, str) or not isinstance(arguments, dict):
        raise ControlError("not a request: needs a command and its arguments")
    return Request(command, arguments)


def encode_result(result: Result) -> bytes:
    """The line for an answer. One that is too long becomes an error."""
    line = _line({"result": result})
    return (
        line if len(line) <= ANSWER_LIMIT else encode_error(ControlError("the answer is too long"))
    )


def encode_event(event: Result) -> bytes:
    """The line for an event."""
    return _line({"event": event})


def encode_error(error: BaseException) -> bytes:
    """The line for a failure. Only errors of snapfs show their text; what else happens inside is
    for the log.
    """
    if isinstance(error, SnapfsError):
        kind, text = type(error).__name__, str(error)
    else:
        kind, text = (
            "ControlError",
            f"internal error in the daemon: {type(error).__name__}; its log has the details",
        )
    return _line({"error": {"kind": kind, "message": text}})


def decode_answer(line: bytes) -> Result:
    """The result; or raises the error that the answer carries, as the class that the handler
    raised.
    """
    return _answer(_message(line))


def decode_reply(line: bytes) -> Result | Event:
    """The same while events may come before the answer."""
    message = _message(line)
    event = message.get("event")
    return Event(event) if isinstance(event, dict) else _answer(message)


def _answer(message: dict[str, Any]) -> Result:
    result, error = message.get("result"), message.get("error")
    if isinstance(result, dict):
        return result
    if (
        not isinstance(error, dict)
        or not isinstance(error.get("kind"), str)
        or not isinstance(error.get("message"), str)
    ):
        raise ControlError("the daemon's answer makes no sense: is it another version of snapfs?")
    raise error_kinds().get(error["kind"], ControlError)(error["message"])


def error_kinds() -> dict[str, type[SnapfsError]]:
    """Every class of the tree by its name."""
    kinds: dict[str, type[SnapfsError]] = {}
    waiting: list[type[SnapfsError]] = [SnapfsError]
    while waiting:
        kind = waiting.pop()
        kinds[kind.__name__] = kind
        waiting.extend(kind.__subclasses__())
    return kinds


def _line(message: dict[str, Any]) -> bytes:
    # ASCII: a file name that is not UTF-8 travels as lone surrogates, which only escapes can carry.
    return (
        json.dumps({"v": VERSION, **message}, separators=(",", ":"), ensure_ascii=True).encode(
            "ascii"
        )
        + b"\n"
    )


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlError("not a line of JSON") from None
    if not isinstance(message, dict):
        raise ControlError("not a JSON object")
    if message.get("v") != VERSION:
        raise ControlError(
            f"protocol version {message.get('v')!r}, this snapfs speaks {VERSION}: use "
            "the snapfs that mounted the volume"
        )
    return message
