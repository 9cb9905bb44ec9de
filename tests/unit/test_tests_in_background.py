"""The tests themselves, started where nobody has a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

INTERRUPTED = "tests/mounted/test_purge.py::test_who_interrupts_is_not_told_what_has_happened"


def test_who_starts_the_tests_behind_a_shell_cannot_interrupt_what_they_start(
    tmp_path: Path,
) -> None:
    """A shell without job control has what it starts with ``&`` ignore SIGINT, and so has all that
    this starts.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "0",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path / 'inner'}",
        INTERRUPTED,
    ]
    result = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert "1 passed" in result.stdout, result.stdout + result.stderr
