"""The examples run, and what they promise is so: each ends with an error otherwise."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["undo_upgrade", "recover_file", "sqlite_backup", "policy"])
def test_an_example_fails(
    name: str, tmp_path: Path, snapfs_command: Callable[..., list[str]]
) -> None:
    """C8 (policy), C7: as a user runs them, with ``snapfs`` on the path."""
    command = tmp_path / "bin" / "snapfs"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(snapfs_command())} "$@"\n')
    command.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    path = f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        [EXAMPLES / f"{name}.sh"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((tmp_path / "tmp").iterdir()), "something was left behind"
