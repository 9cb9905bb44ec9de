"""``with_helpers(shell, code=0)``: runs a script where mount(8) and its kin find snapfs's helpers;
gives its standard output.

Needs root: skipped, with the reason, without.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs its arguments where /sbin has our helpers and the rest of the system has not: util-linux
#: looks nowhere else for them.
IN_A_NAMESPACE = """
set -e
upper=$1; script=$2; shift 2
mount -t tmpfs none "$upper"
mkdir "$upper/files" "$upper/work"
sbin=$(readlink -f /sbin)
mount -t overlay overlay -o "lowerdir=$sbin,upperdir=$upper/files,workdir=$upper/work" "$sbin"
"$script" install-helpers >/dev/null
"$@"
"""


@pytest.fixture
def with_helpers(tmp_path: Path):
    if os.geteuid() != 0:
        pytest.skip("mount(8) with a helper in /sbin needs root")
    script = tmp_path / "bin" / "snapfs"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom snapfs.cli.main import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    upper = tmp_path / "upper"
    upper.mkdir()

    def run(shell: str, code: int = 0) -> str:
        command = [
            "unshare",
            "--mount",
            "bash",
            "-c",
            IN_A_NAMESPACE,
            "bash",
            upper,
            script,
            "bash",
            "-ec",
            shell,
        ]
        result = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=120, cwd=tmp_path
        )
        if "overlay" in result.stderr:
            pytest.skip(f"no overlay mounts here: {result.stderr.strip()}")
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout

    return run
