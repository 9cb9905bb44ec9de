"""Where a coroutine waits: its frames, from the outermost to the one that waits, in words.

Reads what Python tells of suspended coroutines, and changes nothing. May be called from any thread;
of one that runs at that moment, what is found is as true as any picture of a thing that moves.
"""

from __future__ import annotations

import gc
import linecache
import os
import types
from collections.abc import Container, Iterable, Iterator
from typing import Any, Final

import snapfs

#: Frames of our own are told from others' by where their code is.
_PACKAGE: Final = os.path.dirname(os.path.abspath(snapfs.__file__)) + os.sep

#: Nothing that waits is so deep; a bound for what is read while it changes.
_DEEPEST: Final = 200


def frames_of(awaitable: Any) -> Iterator[types.FrameType]:
    """The frames of a coroutine and of all that it awaits, the innermost last."""
    for _ in range(_DEEPEST):
        if awaitable is None:
            return
        # Coroutines, generators that drive some, asynchronous generators.
        for prefix, inner in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(awaitable, f"{prefix}_frame", None)
            if frame is not None:
                yield frame
            if hasattr(awaitable, f"{prefix}_{inner}"):
                awaitable = getattr(awaitable, f"{prefix}_{inner}")
                break
        else:
            awaitable = _wrapped(awaitable)


def _wrapped(awaitable: Any) -> Any:
    """What an awaitable without frames stands for: a step of an asynchronous generator, or what
    ``__await__`` gives of a coroutine.
    """
    if type(awaitable).__name__ not in (
        "async_generator_asend",
        "async_generator_athrow",
        "coroutine_wrapper",
    ):
        return None
    kinds = (types.AsyncGeneratorType, types.CoroutineType)
    return next((one for one in gc.get_referents(awaitable) if isinstance(one, kinds)), None)


def is_ours(frame: types.FrameType) -> bool:
    """Whether a frame is of this package."""
    return frame.f_code.co_filename.startswith(_PACKAGE)


def place(frame: types.FrameType) -> str:
    """Where a frame is, with the line: ``Gate.passed (fuse/driving/gate.py:29): await ...``."""
    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno).strip()
    name = code.co_filename
    path = name.removeprefix(_PACKAGE) if is_ours(frame) else os.path.basename(name)
    return f"{code.co_qualname} ({path}:{frame.f_lineno}){': ' if line else ''}{line}"


def where(frames: Iterable[types.FrameType], beyond: Container[types.CodeType] = ()) -> str:
    """The place of the innermost frame of our own, and by which functions of ours it was reached.

    ``beyond``: functions in which everybody waits, so that only who called them says anything.
    """
    ours = [frame for frame in frames if is_ours(frame) and frame.f_code not in beyond]
    if not ours:
        return "code of others"
    way = "".join(f"{frame.f_code.co_qualname} > " for frame in ours[:-1])
    return way + place(ours[-1])


def stack_of(frame: types.FrameType | None) -> list[str]:
    """A thread's places, from the outermost of our own to where it is; nothing, where none is ours.

    Of a thread that runs an event loop, those of the task that runs.
    """
    frames: list[types.FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    start = max((number for number, one in enumerate(frames) if _is_loop(one)), default=-1) + 1
    first = next((number for number, one in enumerate(frames[start:], start) if is_ours(one)), None)
    return [] if first is None else [place(one) for one in frames[first:]]


def _is_loop(frame: types.FrameType) -> bool:
    return (
        frame.f_code.co_name == "unrolled_run"
        and frame.f_globals.get("__name__") == "trio._core._run"
    )
