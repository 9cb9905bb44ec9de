"""What the tours in the documents and the demo promise happens.

What can be compared without a mount is in ``tests/unit/test_documents.py``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", ["README.md", "snapfs/doc/guide/first-steps.md"])
def test_a_tour_does_not_run(tmp_path: Path, snapfs_command, document: str) -> None:
    """All blocks of shell commands in the document, one after another, as a newcomer types them."""
    tour = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL))
    assert "snapfs mkfs" in tour
    shim = f'snapfs() {{ {" ".join(snapfs_command())} "$@"; }}\nset -ex\n'
    try:
        result = subprocess.run(
            ["bash", "-c", shim + tour],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
    finally:
        if (tmp_path / "work").is_mount():
            subprocess.run(snapfs_command("umount", tmp_path / "work"), check=False, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the first draft" in result.stdout
    assert "clean" in result.stdout


@pytest.mark.slow
def test_the_demo_proves_what_it_shows(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "demo.py", "--files", "1500"]
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=300, env=None, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Nothing is left behind" in result.stdout
    assert "clean" in result.stdout
