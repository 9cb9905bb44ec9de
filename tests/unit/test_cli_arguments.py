"""What the command line reads and prints, without a volume."""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from snapfs.cli import output
from snapfs.cli.arguments import size
from snapfs.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]

#: Import name of each distribution where they differ.
IMPORT_NAMES: dict[str, str] = {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("4096", 4096),
        ("64K", 65536),
        ("64k", 65536),
        ("1.5G", 3 << 29),
        ("2TiB", 2 << 40),
        ("10MB", 10 << 20),
        (" 3M ", 3 << 20),
    ],
)
def test_sizes_mean_powers_of_1024(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "K",
        "0",
        "-1",
        "1.5",
        "1Q",
        "10 apples",
        "nan",
        "inf",
        "1e400",
        "9999999T",
        "0x10",
        "1KK",
    ],
)
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        size(text)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 << 20, "1.5 GiB"),
        (1 << 40, "1.0 TiB"),
    ],
)
def test_sizes_are_shown_with_their_unit(count: int, expected: str) -> None:
    assert output.size_text(count) == expected


def test_times_keep_their_nanoseconds_and_go_before_1970() -> None:
    assert output.time_json(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
    assert output.time_json(-1) == "1969-12-31T23:59:59.999999999Z"


def test_a_table_in_a_pipe_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("Name", "Size"), [("a", "10"), ("longer", "2")])
    assert capsys.readouterr().out == "NAME    SIZE\na       10\nlonger  2\n"


def test_json_survives_names_that_are_not_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9")
    output.print_json({"name": name})
    assert json.loads(capsys.readouterr().out) == {"name": name}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["bogus"], 2),
        (["mkfs"], 2),
        (["mkfs", "x", "--size", "many"], 2),
        (["mkfs", "x", "--siz", "1M"], 2),
        (["mount"], 1),
        (["mount", "only-an-image"], 1),
        (["umount"], 2),
        (["check"], 16),
        (["check", "a", "b"], 16),
        (["snapshot"], 2),
        (["snapshot", "create"], 2),
        (["snapshot", "delete", "x"], 2),
        (["restore", "x"], 2),
        (["restore", "x", "y", "--cancel"], 2),
        (["restore", "x", "--cancel", "--path", "y"], 2),
        (["restore", "x", "y", "--dry-run", "--schedule"], 2),
        (["restore", "x", "y", "-0"], 2),
        (["restore", "--schedule", "x"], 2),
    ],
)
def test_usage_errors_are_one_line_and_the_commands_code(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words, program="snapfs") == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("snapfs: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("program", "words", "code"),
    [
        (
            "mount.snapfs",
            ["/nowhere.img", "/nowhere", "-f", "-o", "rw"],
            0,
        ),  # fake: nothing happens
        ("/sbin/mount.fuse.snapfs", ["/nowhere.img", "/nowhere", "-s", "-n", "-v", "-f"], 0),
        ("mount.snapfs", ["/nowhere.img"], 1),
        ("mount.snapfs", ["/nowhere.img", "/nowhere", "-Z"], 1),
        ("umount.fuse.snapfs", [], 1),
        ("umount.snapfs", ["/nowhere"], 32),
        ("fsck.snapfs", [], 16),
        ("fsck.snapfs", ["-X", "/nowhere"], 16),
        ("fsck.snapfs", ["-a", "-C0", "/nowhere"], 8),
        ("fsck.snapfs", ["-C", "0", "/nowhere"], 8),
        ("mkfs.snapfs", [], 2),
    ],
)
def test_the_programs_name_chooses_the_helper(
    program: str, words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words, program=program) == code
    assert capsys.readouterr().err.count("\n") == (code != 0)


def test_an_unexpected_error_is_one_line_and_shows_its_place_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("of all things\nin two lines")

    monkeypatch.setattr("snapfs.cli.commands.umount.run", broken)
    monkeypatch.delenv("SNAPFS_DEBUG", raising=False)
    assert main(["umount", "x"], program="snapfs") == 1
    quiet = capsys.readouterr().err
    assert quiet.count("\n") == 1
    assert "internal error" in quiet
    assert "please report" in quiet
    monkeypatch.setenv("SNAPFS_DEBUG", "1")
    assert main(["umount", "x"], program="snapfs") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, run_snapfs) -> None:
    assert f"usage: snapfs {command}" in run_snapfs(command, "--help").stdout


def test_a_closed_pipe_is_no_error_message() -> None:
    script = f"{sys.executable} -m snapfs.cli --help | true"
    result = subprocess.run(
        ["bash", "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert result.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["umount", "/nowhere"],
        ["info", "/nowhere"],
        ["mount", "/nowhere", "/nowhere"],
    ],
)
def test_short_commands_load_no_event_loop_and_no_table_drawer(words: list[str]) -> None:
    probe = (
        "import sys\n"
        "from snapfs.cli.main import main\n"
        "try: main(sys.argv[1:], program='snapfs')\n"
        "except SystemExit: pass\n"
        "print(*sorted({'trio', 'pyfuse3', 'rich', 'numpy', 'asyncio', 'msgpack'} & "
        "set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe, *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stderr.splitlines()[-1] == ""


def test_declared_dependencies_are_those_that_are_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name.split(">")[0] for name in project["dependencies"]}
    imported = set()
    for path in (ROOT / "snapfs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    foreign = {
        name for name in imported if name not in sys.stdlib_module_names and name != "snapfs"
    }
    assert {IMPORT_NAMES.get(name, name) for name in declared} == foreign
