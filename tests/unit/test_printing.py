"""What is printed: one place decides what can be shown, and everything goes through it."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import snapfs
from snapfs.cli import exits, output
from snapfs.cli.mounting import logs
from snapfs.printable import printable

SOURCE = Path(snapfs.__file__).parent

ENCODINGS = ("ascii", "latin-1", "cp437", "koi8-r", "utf-8", "shift_jis")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("a\tb\nc\r\x1b[31m\x7f\x9b", "a\\tb\\nc\\r\\x1b[31m\\x7f\\x9b"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),  # bidi
        ("a\u2028b\u2029c\x85", "a\\u2028b\\u2029c\\x85"),  # ends of lines
        (
            "\u200b\ufeff\u00ad\u00a0",
            "\\u200b\\ufeff\\xad\\xa0",
        ),  # what looks like nothing, or like a blank
        ("\udcff\udc80", "\\udcff\\udc80"),  # bytes that are not UTF-8
        ("\U000e0041\U0010ffff", "\\U000e0041\\U0010ffff"),
        ("naïve ☃ 雪", "naïve ☃ 雪"),
    ],
)
def test_a_terminal_obeys_a_name(text: str, shown: str) -> None:
    assert printable(text) == printable(text, "utf-8") == shown


def test_what_an_encoding_lacks_ends_a_command() -> None:
    assert printable("naïve ☃", "ascii") == "na\\xefve \\u2603"
    assert printable("naïve ☃", "latin-1") == "naïve \\u2603"


@given(st.text(st.characters()), st.sampled_from(ENCODINGS))
def test_any_text_is_one_line_in_any_encoding(text: str, encoding: str) -> None:
    shown = printable(text, encoding)
    assert shown.encode(encoding).decode(encoding) == shown
    assert shown.isprintable()
    assert printable(shown, encoding) == shown


def calls(module: Path) -> list[str]:
    tree = ast.parse(module.read_text())
    return [
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]


def test_a_command_prints_past_the_one_place() -> None:
    printing = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if "print" in calls(path)
    }
    assert printing == {"cli/output.py", "cli/exits.py"}
    deciding = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if "isprintable" in path.read_text()
    }
    assert deciding == {"printable.py"}


@pytest.fixture(params=ENCODINGS)
def stream(request) -> io.TextIOWrapper:
    """What stands for standard output and standard error, in an encoding of a user's."""
    return io.TextIOWrapper(io.BytesIO(), encoding=request.param)


def written(stream: io.TextIOWrapper, *prints: Callable[[], object]) -> str:
    """What these print to it."""
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        for each in prints:
            each()
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)


#: What names, descriptions and paths hold at worst.
WORST = "naïve ☃\u202e\x1b[2J\udcff\n-\u2028"


def test_lines_tables_facts_and_errors_are_cut_off_in_the_middle(
    stream: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    text = written(
        stream,
        lambda: output.line(WORST),
        lambda: output.print_facts([("Name", WORST)]),
        lambda: output.print_table(("A", "B"), [(WORST, "b"), ("a", WORST)]),
        lambda: exits.report(WORST),
        lambda: output.ask(WORST),
    )
    shown = printable(WORST, stream.encoding)
    assert text.count(shown) == 6
    assert all(line.isprintable() for line in text.splitlines())
    # Columns are as wide as what is shown in them.
    _, _, head, first, second, *_ = text.split("\n")
    assert head.index("B") == first.index(" b") + 1 == second.index(shown)


def test_json_is_for_showing(stream: io.TextIOWrapper) -> None:
    import json

    text = written(
        stream,
        lambda: output.print_json({"name": WORST}),
        lambda: output.print_json({"name": WORST}, indent=None),
    )
    assert text.isascii()
    assert json.loads(text[: text.index("}\n") + 2])["name"] == WORST
    assert json.loads(text.splitlines()[-1])["name"] == WORST


def record(message: str, *arguments: object) -> logging.LogRecord:
    try:
        raise ValueError(f"about {WORST}\nsnapfs: ERROR: a false line")
    except ValueError:
        return logging.LogRecord(
            "snapfs", logging.ERROR, __file__, 1, message, arguments, sys.exc_info()
        )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_name_writes_lines_of_its_own_into_the_log(encoding: str) -> None:
    form = logs.OneLine("snapfs: %(levelname)s: %(message)s", encoding)
    first, *rest = form.format(
        record("%s: is damaged", f"{WORST}\nsnapfs: CRITICAL: all is lost")
    ).split("\n")
    assert first == printable(
        f"snapfs: ERROR: {WORST}\nsnapfs: CRITICAL: all is lost: is damaged", encoding
    )
    assert rest
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    "\n".join([first, *rest]).encode(encoding)


def test_syslog_is_not_told_of_what_has_names_in_no_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (
        logging.getLogger("snapfs").handlers[:],
        logging.getLogger("snapfs").level,
        logging.raiseExceptions,
    )
    place = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(place)
        monkeypatch.setattr(logs, "SYSLOG", place)
        try:
            logs.log_to_syslog()
            logging.getLogger("snapfs.fuse").error("%s: is damaged", WORST)
            said = syslog.recv(10_000)
        finally:
            logger = logging.getLogger("snapfs")
            for handler in logger.handlers:
                handler.close()
            logger.handlers[:], logger.propagate = before[0], True
            logger.setLevel(before[1])
            logging.raiseExceptions = before[2]
    assert said.endswith(f"ERROR: {printable(WORST)}: is damaged\0".encode())


@pytest.mark.parametrize(
    ("widest", "narrowest", "room", "widths"),
    [
        ([10, 5], [3, 3], 20, [10, 5]),  # there is room
        ([10, 5], [3, 3], 10, [5, 5]),  # the widest gives way
        ([10, 5], [10, 2], 13, [10, 3]),  # one that must stay whole does not
        ([10, 5], [3, 3], 4, [3, 3]),  # nothing becomes narrower than its words
        ([], [], 0, []),
    ],
)
def test_the_wrong_column_gives_way(
    widest: list[int], narrowest: list[int], room: int, widths: list[int]
) -> None:
    assert output.fitting(widest, narrowest, room) == widths
