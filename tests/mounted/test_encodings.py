"""Names that a terminal cannot show, or would obey: every command prints all of them, in every
encoding, and JSON has them exactly.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs.cli.main import main
from snapfs.printable import printable

#: As bytes in the volume: signs that few encodings have, what turns the direction of writing, what
#: clears a screen, no UTF-8, two lines.
NAMES = (
    "naïve-☃".encode(),
    "\u202egnp.exe".encode(),
    b"\x1b[2Jclear",
    b"\xff\xfe",
    b"two\nsnapfs: lines",
    "a\u2028b".encode(),
)

TEXT = "naïve ☃"

#: Commands and what they exit with, of a mounted volume and of its image.
QUESTIONS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ("snapshot", "list", "{}")),
    (0, ("snapshot", "show", "{}", TEXT)),
    (0, ("snapshot", "show", "{}", TEXT, "--hot")),
    (0, ("snapshot", "delete", "{}", TEXT + "-2", "--dry-run")),
    (1, ("snapshot", "delete", "{}", TEXT)),  # is held
    (1, ("snapshot", "show", "{}", "☃ missing")),
    (1, ("snapshot", "create", "{}", "ä/\u202e")),
    (0, ("diff", "{}", TEXT)),
    (0, ("diff", "{}", TEXT, "--json-lines")),
    (1, ("diff", "{}", TEXT, "--path", "/☃/\u202e")),
    (0, ("restore", "{}", TEXT, "--dry-run")),
    (0, ("restore", "{}", TEXT, "--schedule", "--path", "/naïve-☃")),
    (0, ("info", "{}")),
    (0, ("restore", "{}", "--cancel")),
    (0, ("versions", "{}", "--path", "/naïve-☃")),
    (0, ("versions", "{}", "--path", "/", "--deleted")),
    (1, ("purge", "{}", "/naïve-☃", os.fsdecode(b"/\xff\xfe"), "--dry-run", "--snapshot", TEXT)),
    (1, ("purge", "{}", "/☃\n", "--yes")),
    (0, ("df", "{}")),
    (0, ("df", "{}", TEXT)),
    (0, ("scrub", "{}")),
    (0, ("copy", "status", "{}")),
    (1, ("copy", "pause", "{}")),
    (2, ("copy", "{}", "☃/")),
    (2, ("info", "{}", "☃")),
)


@pytest.fixture
def strange(images, mount_volume, tmp_path: Path) -> Any:
    """A volume whose files, snapshot, tags, image and mount point have such names; all files have
    changed since the snapshot.
    """
    directory = tmp_path / "☃\u202e\n"
    directory.mkdir()
    images.directory = directory
    mounted = mount_volume(images.make())
    for name in NAMES:
        (mounted.path / os.fsdecode(name)).write_bytes(b"1")
    arguments = ("--description", f"{TEXT} \u202e", "--tag", "ключ=значение")
    mounted.run("snapshot", "create", mounted.path, TEXT, *arguments)
    mounted.run("snapshot", "create", mounted.path, TEXT + "-2", "--of", TEXT, "--path", "/naïve-☃")
    mounted.run("snapshot", "hold", mounted.path, TEXT, "--reason", f"{TEXT} \u202e")
    for name in NAMES[:3]:
        (mounted.path / os.fsdecode(name)).write_bytes(b"22")
    for name in NAMES[3:]:
        (mounted.path / os.fsdecode(name)).unlink()
    return mounted


@contextlib.contextmanager
def terminal(encoding: str) -> Iterator[Callable[[], tuple[str, str]]]:
    """Standard output and error in an encoding; gives what was written, and fails unless it is
    lines that a terminal can show.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]

    def written() -> tuple[str, str]:
        for each in streams:
            each.flush()
        out, err = (each.buffer.getvalue().decode(encoding) for each in streams)
        assert all(line.isprintable() for line in (out + err).split("\n")), (out, err)
        return out, err

    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield written


def ask(code: int, words: list[str], encoding: str) -> str:
    with terminal(encoding) as written:
        assert main(words, "snapfs") == code, (words, written())
        out, err = written()
    assert "internal error" not in err, err
    assert err.count("\n") == (code != 0), err
    return out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_name_cuts_off_what_is_printed_or_is_obeyed(strange, encoding: str) -> None:
    for target in (strange.path, strange.image):
        if target == strange.image:
            strange.unmount()
        for code, words in QUESTIONS:
            filled = [word.format(target) for word in words]
            out = ask(code, filled, encoding)
            if "diff" in words and code == 0 and "--json-lines" not in words:
                for name in NAMES:
                    assert printable(os.fsdecode(name), encoding) in out
            if words[:2] == ("snapshot", "list"):
                assert out.count(printable(TEXT, encoding)) >= 3
    for words in (
        ["check", str(strange.image)],
        ["check", str(strange.image) + "☃"],
        ["mount", str(strange.image), "☃\u202e"],
    ):
        ask(
            {"mount": 32, "check": 0 if words[1] == str(strange.image) else 8}[words[0]],
            words,
            encoding,
        )


def test_json_has_other_names_than_the_volume(strange) -> None:
    names = {name.decode("utf-8", "surrogateescape") for name in NAMES}
    changes = json.loads(ask(0, ["diff", str(strange.path), TEXT, "--json"], "ascii"))["changes"]
    assert {change["path"] or change["old_path"] for change in changes} == names
    lines = ask(0, ["diff", str(strange.path), TEXT, "--json-lines"], "ascii").splitlines()
    assert [json.loads(line) for line in lines] == changes or len(lines) == len(changes)
    (one,) = [
        each
        for each in json.loads(ask(0, ["snapshot", "list", str(strange.path), "--json"], "ascii"))
        if each["holds"]
    ]
    assert (one["name"], one["description"], one["tags"]) == (
        TEXT,
        f"{TEXT} \u202e",
        {"ключ": "значение"},
    )
    assert json.loads(ask(0, ["info", str(strange.path), "--json"], "ascii"))["image"] == str(
        strange.image
    )


@pytest.mark.parametrize(
    ("encoding", "environment"),
    [
        ("ascii", {"PYTHONIOENCODING": "ascii"}),
        ("latin-1", {"PYTHONIOENCODING": "latin-1"}),
        ("utf-8", {"LC_ALL": "C"}),
        ("ascii", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ],
)
def test_an_environment_ends_commands(
    strange, encoding: str, environment: dict[str, str], snapfs_command
) -> None:
    for words in (
        ("diff", strange.path, TEXT),
        ("snapshot", "list", strange.path),
        ("snapshot", "show", strange.path, TEXT),
    ):
        result = subprocess.run(
            snapfs_command(*words),
            check=False,
            capture_output=True,
            env={**os.environ, **environment},
            timeout=120,
        )
        assert (result.returncode, result.stderr) == (0, b""), result.stderr
        text = result.stdout.decode(encoding)
        assert all(line.isprintable() for line in text.split("\n"))
        assert printable("naïve", encoding) in text
    # The log of a daemon in front, which names files of the image and the image itself.
    strange.unmount()
    strange.path.mkdir(exist_ok=True)
    command = snapfs_command("mount", "-f", strange.image, strange.path)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, **environment}
    ) as daemon:
        assert daemon.stderr is not None
        line = daemon.stderr.readline()
        assert b"mounted on" in line
        daemon.terminate()
        rest = daemon.stderr.read()
        assert daemon.wait(60) == 0, rest
    for each in (line + rest).decode(encoding).splitlines():
        assert each.isprintable(), each
        assert each.startswith("snapfs: "), each


def test_a_table_on_a_terminal_cuts_names(strange, snapfs_command) -> None:
    """33: on 80 columns every name can be copied, and the other columns give way; also where the
    encoding has no dots to cut with.
    """
    names = ["n" * 60, "before-restore-2026-11-30T14:00:00Z", "wide-雪雪雪雪"]
    strange.run(
        "snapshot", "create", strange.path, names[0], "--description", "several words " * 10
    )
    for name in names[1:]:
        strange.run("snapshot", "create", strange.path, name, "--path", "/naïve-☃")
    for encoding in ("utf-8", "ascii"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "TERM": "xterm", "COLUMNS": "80"}
        out = on_terminal(snapfs_command("snapshot", "list", strange.path), environment)
        lines = out.replace("\r\n", "\n").split("\n")
        for name in names:
            assert any(line.startswith(printable(name, encoding) + " ") for line in lines), out
        assert "…" not in out
        assert sum("several" in line for line in lines) > 3  # what gives way goes on below
        # What moves while something takes its time is drawn in signs that there are.
        assert "clean" in on_terminal(snapfs_command("scrub", strange.path), environment)


def on_terminal(command: list[str], environment: dict[str, str]) -> str:
    """What a command shows on a terminal of 80 columns."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        pieces = []
        with contextlib.suppress(OSError):  # EIO: nobody writes any more
            while piece := os.read(ours, 1 << 16):
                pieces.append(piece)
        os.close(ours)
        assert process.wait(60) == 0
    return b"".join(pieces).decode(environment["PYTHONIOENCODING"])
