"""Requests that no client of ours sends, to a daemon's commands: whatever is asked, the answer is
an answer or an error of snapfs.

``Asking`` has a volume in memory with files and snapshots, and the handlers of a daemon for it. An
input chooses lines: commands with arguments that fit or not, of all types, with texts that are
names, paths, nonsense and worse; and lines that are no requests at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from snapfs import snapshots
from snapfs.check import check_volume
from snapfs.control.commands import offline
from snapfs.control.commands.handlers import Handlers
from snapfs.control.commands.offline import OfflineEngine
from snapfs.control.socket import protocol
from snapfs.control.socket.caller import Alone
from snapfs.errors import SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.fuzz.mutations import Choices
from tests.harness.sparse import SparseDevice

#: Longest input in bytes: a dozen requests.
LENGTH: Final = 400

#: Where a copy may go besides the directory that is given: nowhere, or where nothing comes of it.
DESTINATIONS: Final = (
    "", "\0", "/", ".", "x", "/proc/self/mem", "/dev/null", "/dev/full", "/dev/tty", "/nowhere/x",
    "mem:", "mem:8M", "mem:then", "mem:\0",
    "/\ud800", "/" + "n" * 300,
)  # fmt: skip

#: Texts that stand for names, paths, times and tags.
TEXTS: Final = (
    "s", "part", "s2", "", ".", "..", "/", "/d", "/d/f", "d/../f", "\0", "/\0", "a\0b", "\n",
    "\x1b[2J", "\u202e", "\udcff",
    "/\udcff\udcfe", "\ud800", "☃", "-x", " blank ", "n" * 255, "n" * 256,
    "/" + "/".join(["x" * 255] * 20), "/d" * 3000, ",",
    "2026-11-30T14:00:00Z", "hold", "policy", "1", "-1",
)  # fmt: skip

NUMBERS: Final = (
    0,
    1,
    -1,
    2,
    255,
    1 << 31,
    1 << 63,
    -(1 << 63),
    1 << 64,
    1 << 200,
    True,
    False,
    0.5,
    1e308,
)


class Impatient(Alone):
    """A caller who waits for nothing, and hangs up when that goes on for long: a copy may have been
    asked for at a byte a second.
    """

    def __init__(self, told: Callable[[protocol.Result], None]) -> None:
        super().__init__(told)
        self._left = 100

    async def pause(self, seconds: float) -> None:
        self._left -= 1
        if self._left < 0:
            raise protocol.ControlError("the caller has hung up")


def one(choices: Choices, of: Sequence[Any]) -> Any:
    return of[choices.below(len(of))]


def requests(data: bytes, directory: str, commands: dict[str, dict[str, type]]) -> Iterator[bytes]:
    """The lines of an input. Copies go into ``directory``, if anywhere."""
    choices = Choices(data)
    while choices.left:
        kind = choices.below(16)
        if kind == 0:
            yield (
                bytes(choices.below(256) for _ in range(choices.below(64))).replace(b"\n", b"")
                + b"\n"
            )
            continue
        command = one(choices, sorted(commands)) if kind > 1 else one(choices, TEXTS)
        arguments: Any = {}
        for name, expected in sorted(commands.get(command, {}).items()):
            if choices.below(4):
                arguments[name] = _argument(choices, name, expected, directory)
        if not choices.below(32):
            arguments[one(choices, TEXTS)] = _any(choices, 0)
        if not choices.below(64):
            arguments = _any(choices, 0)
        message = {
            "v": one(choices, (1, 1, 1, 1, 1, 1, 1, 2)),
            "command": command,
            "arguments": arguments,
        }
        yield json.dumps(message).encode() + b"\n"


def _argument(choices: Choices, name: str, expected: type, directory: str) -> Any:
    if name == "destination":
        # Never a path that an input makes up: it would be written to.
        return one(
            choices,
            (
                *DESTINATIONS,
                *(os.path.join(directory, f"copy{number}") for number in range(4)),
                directory,
            ),
        )
    if not choices.below(12):
        return _any(choices, 0)
    if expected is bool:
        return bool(choices.below(2))
    if expected is int:
        return one(choices, NUMBERS)
    if expected is str:
        return one(choices, TEXTS)
    if expected is list:
        return [one(choices, TEXTS) for _ in range(choices.below(4))]
    return {one(choices, TEXTS): one(choices, TEXTS) for _ in range(choices.below(4))}


def _any(choices: Choices, depth: int) -> Any:
    kind = choices.below(7 if depth < 3 else 5)
    if kind < 2:
        return one(choices, TEXTS)
    if kind == 2:
        return one(choices, NUMBERS)
    if kind == 3:
        return None
    if kind == 4:
        return one(choices, TEXTS) * 50
    if kind == 5:
        return [_any(choices, depth + 1) for _ in range(choices.below(4))]
    return {one(choices, TEXTS): _any(choices, depth + 1) for _ in range(choices.below(4))}


def commands_of(handlers: Handlers) -> dict[str, dict[str, type]]:
    """Every command with its arguments and their types."""
    return {name: types for name, (types, _) in {**handlers._commands, **handlers._long}.items()}


class Unforeseen(AssertionError):
    """A request did what nobody foresaw."""


class Asking:
    """A daemon's commands, for one input."""

    def __init__(self, directory: str, *, owner: int | None = None) -> None:
        """Copies go to ``directory``. ``owner``: who asks, if not whom the volume belongs to."""
        self._directory = directory
        device = SparseDevice(8 << 20)
        format_volume(device)
        self.fs = Filesystem(open_volume(device))
        self._uid = os.geteuid() if owner is None else owner
        volume, fs = self.fs.volume, self.fs
        d = drive(volume, fs.make, fs.base, ROOT_INO, b"d", 0o40755, 0, 0)
        drive(volume, fs.make, fs.base, d.ino, b"f", 0o100644, 0, 0)
        drive(volume, fs.make, fs.base, ROOT_INO, b"\xff\xfe", 0o100644, 0, 0)
        for name, targets in (("s", []), ("part", [[b"d"]]), ("s2", [])):
            drive(volume, snapshots.create, fs, name, targets=targets)
            commit(volume)
        drive(volume, fs.make, fs.base, ROOT_INO, b"new", 0o100644, 0, 0)
        commit(volume)
        self.handlers = Handlers(OfflineEngine(fs), fs)

    def ask(self, line: bytes) -> bytes:
        """The answer to a line, as the server gives it. Raises ``Unforeseen``."""
        told: list[protocol.Result] = []
        try:
            request = protocol.decode_request(line)
            result = offline.run(self.handlers.handle(request, self._uid, Impatient(told.append)))
            answer = protocol.encode_result(result)
        except SnapfsError as exc:
            answer = protocol.encode_error(exc)
        except Exception as exc:
            raise Unforeseen(f"{line!r}: {type(exc).__name__}: {exc}") from exc
        for event in told:
            protocol.decode_reply(protocol.encode_event(event))
        return answer

    def run(self, data: bytes) -> None:
        """Ask everything that an input asks; then the volume must be whole.
        Raises ``Unforeseen``.
        """
        before = os.getcwd()
        os.chdir(self._directory)
        try:
            for line in requests(data, self._directory, commands_of(self.handlers)):
                self.ask(line)
            self.handlers.copying.close()
        finally:
            os.chdir(before)
            for name in os.listdir(self._directory):
                os.unlink(os.path.join(self._directory, name))
        if self.fs.volume.read_only_reason is not None:
            raise Unforeseen(f"the volume is read-only: {self.fs.volume.read_only_reason}")
        commit(self.fs.volume)
        if found := check_volume(self.fs.volume.device):
            raise Unforeseen(f"the volume is damaged: {found[0].message()}")


Ask = Callable[[bytes], None]


def target(directory: str) -> Ask:
    """For the fuzzer: as the owner for half of all inputs, as a stranger for the others."""

    def run(data: bytes) -> None:
        Asking(directory, owner=None if not data or data[0] % 2 else 12_345).run(data[1:])

    return run
