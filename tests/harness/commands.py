"""Commands of snapfs as tests run them: forked from a process that has it imported
(``forkserver``), with the arguments, streams, environment, directory and exit code that a process
of its own has.

``run`` and ``start`` take what ``subprocess.run`` and ``subprocess.Popen`` take. A command line
that ``snapfs_command`` has made is forked if a fork can do all that is asked for (``can_fork``),
and is otherwise a process of its own, as any other program.
``SNAPFS_FORK=0`` makes all of them processes of their own.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness import forkserver
from tests.harness.forkserver import ANSWER, ENDED, FAILED, STARTED, Request

_TESTS = Path(__file__).parents[1]

# The tree under test, for every process that a test starts, whether or not it is installed; and
# what looks over its shoulder.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [
        *map(os.fspath, (_TESTS.parent, _TESTS / "daemons")),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
)

#: What an interpreter has seen of the environment that is started before the first test.
_ENVIRONMENT = dict(os.environ)

#: No command of a test may take longer than this; a hang is a failure with its name on it.
COMMAND_LIMIT = 120.0

#: Seconds in which a process that a test has left behind may end by itself, after SIGTERM.
ENDING_LIMIT = 30.0

#: What ``python -m snapfs.cli`` has as its name.
_MODULE = os.fspath(_TESTS.parent / "snapfs" / "cli" / "__main__.py")

#: Variables that an interpreter looks at when it starts: with others than the tests have, a command
#: needs one of its own.
_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "MALLOC_", "GLIBC_", "SNAPFS_TALLY")

#: Options of ``subprocess`` with which a command can be forked.
_KNOWN = (
    "stdin stdout stderr bufsize text encoding errors universal_newlines cwd env umask user group"
    " extra_groups start_new_session close_fds restore_signals pipesize"
)

Word = str | os.PathLike[str]
Environment = Mapping[str, str]


def snapfs_command(*arguments: Word) -> list[str]:
    """The command line as tests call it: the interpreter that runs them, the tree under test."""
    return [sys.executable, "-m", "snapfs.cli", *(os.fspath(word) for word in arguments)]


def can_fork(command: object, options: Mapping[str, Any]) -> bool:
    """Whether a fork of the server is as good as a process of its own."""
    if not isinstance(command, list | tuple) or os.environ.get("SNAPFS_FORK") == "0":
        return False
    if [os.fspath(word) for word in command[:3]] != snapfs_command():
        return False
    if any(value for name, value in options.items() if name not in _KNOWN.split()):
        return False
    if options.get("close_fds") is False or options.get("restore_signals") is False:
        return False
    return _at_start(options.get("env") or os.environ) == _at_start(_ENVIRONMENT)


def _at_start(environment: Environment) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(_AT_START)}


def start(command: Sequence[Word], **options: Any) -> subprocess.Popen[Any]:
    """As ``subprocess.Popen``."""
    if can_fork(command, options):
        return Forked([os.fspath(word) for word in command], **options)
    return subprocess.Popen(command, **options)


def run(
    command: Sequence[Word],
    *,
    input: Any = None,  # noqa: A002 - it is the name that ``subprocess`` has for it
    capture_output: bool = False,
    timeout: float | None = COMMAND_LIMIT,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """As ``subprocess.run``."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    with start(command, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
        code = process.wait()
    result = subprocess.CompletedProcess(command, code, out, err)
    if check:
        result.check_returncode()
    return result


def run_snapfs(
    *arguments: Word,
    code: int | None = 0,
    env: Environment | None = None,
    limit: float = COMMAND_LIMIT,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a command, with ``env`` besides the environment; its exit code is ``code``, or any."""
    command = snapfs_command(*arguments)
    options["env"] = {**os.environ, **(env or {})}
    result = run(command, capture_output=True, text=True, timeout=limit, **options)
    if code is not None and result.returncode != code:
        pytest.fail(
            f"snapfs {' '.join(command[3:])}\nexit code {result.returncode}, expected {code}\n"
            f"--- stdout\n{result.stdout}--- stderr\n{result.stderr}"
        )
    return result


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that a test has left behind, first by SIGTERM, and close what leads to it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(ENDING_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            # What was not yet written is of no use to a process that has ended.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class ForkServer:
    """The one server of this session; started by whoever needs it first."""

    _one: ForkServer | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Not as a script: requests are values of a class that this module and the server share.
            program = f"from {forkserver.__name__} import main; main()"
            command = [sys.executable, "-c", program, forkserver.ROOM]
            rest = {k: v for k, v in os.environ.items() if not k.startswith(_AT_START)}
            environment = rest | _at_start(_ENVIRONMENT)
            self.process = subprocess.Popen(
                command, stdin=theirs.fileno(), env=environment, cwd="/"
            )
        self.pid = os.getpid()

    @classmethod
    def get(cls) -> ForkServer:
        with cls._lock:
            # A process that a test has forked has what its parent had, and may not use it.
            if cls._one is None or cls._one.pid != os.getpid():
                cls._one = cls()
                atexit.register(cls._one.close)
            return cls._one

    def ask(self, descriptors: Sequence[int], request: Request) -> socket.socket:
        """Have a child forked; gives the channel on which its answers come."""
        mine, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undone:
            undone.callback(mine.close)
            sent = array.array("i", [theirs.fileno(), *descriptors])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)]
            self.control.sendmsg([b"f"], ancillary)
            mine.sendall(pickle.dumps(request))
            undone.pop_all()
        return mine

    def close(self) -> None:
        self.control.close()
        if self.pid == os.getpid():
            self.process.wait(COMMAND_LIMIT)


class Forked(subprocess.Popen[Any]):
    """A ``Popen`` whose process is a child of the server's.

    These are the methods by which ``Popen`` starts a process and waits for its end; what it does
    with pipes, timeouts and signals is its own.
    """

    _channel: socket.socket | None = None
    _channel_lock: threading.Lock

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._channel_lock = threading.Lock()
        self._user = options.pop("user", None)
        self._group = options.pop("group", None)
        self._groups = options.pop("extra_groups", None)
        super().__init__(command, **options)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        (_executable, _preexec, _close_fds, _pass_fds, cwd, env, _info, _flags, _shell) = rest[:9]
        (p2cread, _, _, c2pwrite, _, errwrite) = rest[9:15]
        (_restore, _gid, _gids, _uid, umask, new_session) = rest[15:21]
        pairs = os.environ if env is None else env
        environment = {os.fsencode(name): os.fsencode(value) for name, value in pairs.items()}
        request = Request(
            words=[_MODULE, *args[3:]],
            command=list(args),
            environment=environment,
            umask=umask if umask >= 0 else _umask(),
            new_session=new_session,
            user=self._user,
            group=self._group,
            groups=self._groups,
        )
        streams = [p2cread, c2pwrite, errwrite]
        streams = [place if place >= 0 else own for own, place in enumerate(streams)]
        directory = os.open(cwd or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            channel = ForkServer.get().ask([*streams, directory], request)
        finally:
            os.close(directory)
            self._close_pipe_fds(*rest[9:15])  # type: ignore[attr-defined]
        kind, number = _answer(channel)
        if kind != STARTED:
            channel.close()
            if kind == FAILED:
                raise OSError(number, os.strerror(number))
            raise RuntimeError("the fork server's child has ended before it became the command")
        self._channel = channel
        self.pid = number
        self._child_created = True

    def _internal_poll(self, *_args: Any, **_kwargs: Any) -> int | None:
        self._look(0.0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if not self._look(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def _look(self, seconds: float | None) -> bool:
        """Whether it has ended, after at most so many seconds; None: it is waited for."""
        if self.returncode is not None:
            return True
        # Others may look as well: who has the lock does it for all.
        began = time.monotonic()
        if not self._channel_lock.acquire(timeout=-1 if seconds is None else seconds):
            return False
        try:
            if self.returncode is None:
                assert self._channel is not None
                left = None if seconds is None else max(0.0, began + seconds - time.monotonic())
                if not _is_readable(self._channel, left):
                    return False
                kind, number = _answer(self._channel)
                self.returncode = number if kind == ENDED else _UNKNOWN
                self._channel.close()  # the server may give its process id to others from now on
            return True
        finally:
            self._channel_lock.release()


#: The exit status of a process whose server has been killed.
_UNKNOWN = 255


def _is_readable(channel: socket.socket, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _answer(channel: socket.socket) -> tuple[bytes, int]:
    """What it is about, and its number; nothing and 0 if there will be none."""
    data = channel.recv(ANSWER.size, socket.MSG_WAITALL)
    return ANSWER.unpack(data) if len(data) == ANSWER.size else (b"", 0)


def _umask() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
