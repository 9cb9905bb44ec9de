"""What the README and the demo promise happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_tour_in_the_readme_runs(tmp_path: Path, snapfs_command) -> None:
    tour = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
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


def test_the_options_in_the_readme_are_those_that_are_accepted() -> None:
    from snapfs.fuse.mount.options import parse_options

    table = (ROOT / "README.md").read_text().split("## Mount options")[1].split("##")[0]
    examples = {"NAME": "x", "SECONDS": "5", "PERCENT": "5", "SIZE": "1M", "": "0"}
    examples |= {
        "on\\|off": "off",
        "SECONDS\\|off": "off",
        "oldest\\|none": "oldest",
        "direct\\|pyfuse3": "direct",
    }
    needs = {"autodelete_below": "autodelete=oldest,"}
    first_column = "\n".join(
        line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")
    )
    for name, equals, value in re.findall(r"`([a-z_]+)(=?)([^`]*)`", first_column):
        parse_options(needs.get(name, "") + (f"{name}={examples[value]}" if equals else name))


def test_a_promise_has_no_proof() -> None:
    """Every line of "What snapfs promises" names tests, and each of them is there."""
    table = (ROOT / "README.md").read_text().split("## What snapfs promises")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in table.splitlines()
        if line.startswith("| ")
    ][1:]
    assert len(rows) > 15
    for promise, proof in rows:
        proofs = re.findall(r"`([^`]+)`", proof)
        assert proofs, promise
        for name in proofs:
            path, _, function = name.partition("::")
            assert path.startswith("tests/"), name
            assert (ROOT / path).is_file(), name
            defined = re.findall(
                r"^(?:async )?def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE
            )
            assert function in defined if function else defined, name
