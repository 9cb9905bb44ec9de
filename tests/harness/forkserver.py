"""A process that has snapfs imported and runs its command line in children that it forks.

A test session starts one (``commands.ForkServer``). A request is one datagram on descriptor 0 of
this program: it carries five descriptors, namely the channel of the request, the three standard
streams, and the working directory. The child reads what it is to do (``Request``) from the channel,
becomes what a process that ``python -m snapfs.cli`` starts would be, and answers with its process
id. When the child has ended, the server writes its exit status to the channel, and leaves it a
zombie, whose number nobody else gets, until the client has closed the channel.

What a fork cannot do as a fresh interpreter would (another encoding, another ``PYTHON...``
variable) is not asked of it: see ``commands.can_fork``.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import errno
import gc
import importlib
import io
import os
import pickle
import pkgutil
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

#: Descriptors that come with a request: the channel, standard input, output and error, and the
#: working directory.
DESCRIPTORS = 5

#: An answer: what it is about, and a number.
ANSWER = struct.Struct("=cq")

#: The child's process id; an error number of what could not be set up; the exit status.
STARTED, FAILED, ENDED = b"P", b"E", b"S"

#: Modules that a fresh process loads only where somebody asks for them, and some of the standard
#: library that commands load when they run.
_MORE = (
    "argparse encodings.ascii encodings.idna encodings.latin_1 getopt json logging.handlers pwd grp"
    " rich.cells rich.console rich.progress rich.table rich.text shutil subprocess tempfile"
)

#: linux/prctl.h
_PR_SET_DUMPABLE = 4

#: An argument that the server is started with, in whose place the children's command lines are.
ROOM = " " * 4000


@dataclass(frozen=True)
class Request:
    """What a child is to be."""

    #: ``sys.argv``, the program's name first.
    words: list[str]
    #: What the process is called with, the interpreter first: what others see of it in /proc.
    command: list[str]
    environment: dict[bytes, bytes]
    umask: int
    new_session: bool = False
    #: User, group and further groups that it becomes before anything else.
    user: int | None = None
    group: int | None = None
    groups: list[int] | None = None


def load() -> None:
    """Import all that a command or a daemon may need, and have the collector leave it alone."""
    for name in _MORE.split():
        importlib.import_module(name)
    # This comes first, and has the tally installed before anything else of the core is bound.
    importlib.import_module("snapfs.fuse.mount.mounting")
    package = importlib.import_module("snapfs")
    for module in pkgutil.walk_packages(package.__path__, "snapfs."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def serve(control: socket.socket) -> socket.socket | None:
    """Fork a child for each request. Returns its channel in a child; None when the session ends."""
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not fork"
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, socket.socket]] = {}
    ended: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for descriptor, _event in poll.poll():
            if descriptor == control.fileno():
                received = _receive(control)
                if received is None:
                    return None
                channel, *places = received
                child = os.fork()
                if child == 0:
                    _take_places(places, channel)
                    return socket.socket(fileno=channel)
                for place in places:
                    os.close(place)
                watch = os.pidfd_open(child)
                running[watch] = child, socket.socket(fileno=channel)
                poll.register(watch, select.POLLIN)
            elif descriptor in running:
                child, connection = running.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                status = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
                assert status is not None
                died = status.si_code != os.CLD_EXITED
                try:
                    code = -status.si_status if died else status.si_status
                    connection.sendall(ANSWER.pack(ENDED, code))
                except OSError:  # nobody waits for it any more
                    pass
                ended[connection.fileno()] = child, connection
                poll.register(connection, select.POLLIN)
            else:
                child, connection = ended.pop(descriptor)
                poll.unregister(descriptor)
                connection.close()
                os.waitpid(child, 0)


def _receive(control: socket.socket) -> list[int] | None:
    size = struct.calcsize("i")
    data, ancillary, _flags, _address = control.recvmsg(1, socket.CMSG_SPACE(DESCRIPTORS * size))
    if not data:
        return None
    descriptors = array.array("i")
    for _level, _type, content in ancillary:
        descriptors.frombytes(content[: len(content) - len(content) % size])
    assert len(descriptors) == DESCRIPTORS
    return list(descriptors)


def _take_places(places: list[int], channel: int) -> None:
    """Have the streams and the directory where they belong, and no other descriptor besides."""
    for number, place in enumerate(places[:3]):
        os.dup2(place, number, inheritable=True)
    os.fchdir(places[3])
    last = max(int(name) for name in os.listdir("/proc/self/fd"))
    os.closerange(3, channel)
    os.closerange(channel + 1, last + 1)


def become(channel: socket.socket, interrupt: Callable[..., object] | int | None) -> None:
    """Turn this child into the process that is asked for, and say so."""
    with channel, channel.makefile("rb") as stream:
        request: Request = pickle.load(stream)
        try:
            _set_up(request, interrupt)
        except OSError as exc:
            channel.sendall(ANSWER.pack(FAILED, exc.errno or errno.EINVAL))
            os._exit(255)
        channel.sendall(ANSWER.pack(STARTED, os.getpid()))


def _set_up(request: Request, interrupt: Callable[..., object] | int | None) -> None:
    os.environb.clear()
    os.environb.update(request.environment)
    os.umask(request.umask)
    if request.new_session:
        os.setsid()
    _show(request.command)
    if request.groups is not None:
        os.setgroups(request.groups)
    if request.group is not None:
        os.setgid(request.group)
    if request.user is not None:
        os.setuid(request.user)
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as starting a program does: /proc/self is its own
    sys.argv = list(request.words)
    _open_streams()
    _reseed()
    signal.signal(signal.SIGINT, interrupt)


def _open_streams() -> None:
    """As the interpreter does when it starts: a terminal is written to by lines."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old: io.TextIOWrapper = getattr(sys, f"__{name}__")
        raw = io.FileIO(number, "wb" if number else "rb", closefd=False)
        binary = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
        binary.raw.name = f"<{name}>"
        new = io.TextIOWrapper(
            binary,
            encoding=old.encoding,
            errors=old.errors,
            newline="\n",
            line_buffering=number == 2 or raw.isatty(),
        )
        new.mode = "w" if number else "r"  # type: ignore[misc] # as the interpreter does
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def _reseed() -> None:
    """Have no two daemons schedule their tasks alike. Python does that with its own generator."""
    from trio._core import _run

    generator = getattr(_run, "_r", None)
    if generator is not None:
        generator.seed()


def _show(command: list[str]) -> None:
    """Have /proc show this command line: it stands where this process's own stood.

    The server is started with an argument that leaves room for it (``ROOM``). What is left of that
    is zeros, as behind every word.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    start, end = int(fields[45]), int(fields[46])
    words = b"".join(os.fsencode(word) + b"\0" for word in command)
    ctypes.memmove(start, words[: end - start - 1].ljust(end - start, b"\0"), end - start)


def _run() -> NoReturn:
    """The command line, and what the interpreter does at its end, without freeing all it has."""
    from snapfs.cli.main import main

    try:
        status = main()
    except SystemExit as exc:
        if not isinstance(exc.code, int | None):
            raise
        status = exc.code or 0
    threading._shutdown()  # type: ignore[attr-defined] # of the interpreter's end
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(status)  # the interpreter knows what to say
    os._exit(status & 0xFF)


def main() -> None:
    """Serve the session behind descriptor 0."""
    # An interrupt from the terminal is for the tests and for what runs, not for this.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    load()
    channel = serve(control)
    if channel is None:
        os._exit(0)
    control.detach()
    become(channel, interrupt)
    del control, channel
    _run()
