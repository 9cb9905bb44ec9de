"""snapfs as people install it: built from its source distribution, alone in an environment with
what its wheel says that it needs.

Nothing here may reach the source tree: the wheel is built from a copy of it, and what runs has no
``PYTHONPATH`` and another directory.
"""

from __future__ import annotations

import contextlib
import email
import hashlib
import importlib.metadata
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

MIB = 1 << 20


def environment(binaries: Path | None = None) -> dict[str, str]:
    """Ours, without what leads Python to a source tree or pip to other settings; with the commands
    of an installation first.
    """
    found = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV"))
    }
    return (
        found if binaries is None else {**found, "PATH": f"{binaries}{os.pathsep}{found['PATH']}"}
    )


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None, code: int = 0) -> str:
    """Run a program; its standard output."""
    result = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env or environment(),
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert result.returncode == code, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@dataclass(frozen=True)
class Built:
    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Installation:
    """A virtual environment. ``elsewhere``: a directory that has nothing to do with the source."""

    top: Path
    elsewhere: Path

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run one of its commands."""
        return run(
            self.top / "bin" / command[0],
            *command[1:],
            cwd=self.elsewhere,
            env=environment(self.top / "bin"),
            code=code,
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The source distribution, and the wheel that is built from that. The setuptools that builds is
    the one beside pytest.
    """
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]:
        needed = Requirement(line)
        version = importlib.metadata.version(needed.name)
        assert version in needed.specifier, (
            f"{needed} is needed beside pytest, not {version}: pip install -e '.[dev]'"
        )
    top = tmp_path_factory.mktemp("built")
    source = top / "source"
    # Neither what git ignores, nor an older build's list of files, which setuptools would take for
    # its own.
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"),
    )
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", script, top, cwd=source)
    (sdist,) = top.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check")
    run(
        *pip,
        "wheel",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        top,
        sdist,
        cwd=top,
    )
    (wheel,) = top.glob("*.whl")
    return Built(sdist, wheel)


def link_requirements(wheel: Path, site: Path) -> None:
    """Put what a wheel requires, and what that requires, into an environment: links to the packages
    beside pytest, not a package more.
    """
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        wanted = list(
            map(
                Requirement, email.message_from_bytes(files.read(name)).get_all("Requires-Dist", [])
            )
        )
    done = set()
    while wanted:
        one = wanted.pop()
        if one.name in done or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        done.add(one.name)
        found = importlib.metadata.distribution(one.name)
        wanted += map(Requirement, found.requires or [])
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            (site / top).symlink_to(os.fspath(found.locate_file(top)))


@pytest.fixture(scope="module")
def installation(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """pip refuses to install when a requirement is missing or too old."""
    top = tmp_path_factory.mktemp("environment")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "--without-pip", top, cwd=elsewhere)
    (site,) = top.glob("lib/python*/site-packages")
    link_requirements(built.wheel, site)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "--python",
        top / "bin" / "python",
    )
    run(*pip, "install", "--quiet", "--no-index", built.wheel, cwd=elsewhere)
    run(*pip, "check", cwd=elsewhere)
    return Installation(top, elsewhere)


# --- what is in it --------------------------------------------------------------------------------


def test_a_file_is_missing_in_the_wheel_or_too_much(built: Built) -> None:
    """D8: all modules, the documents beside them, the mark of types and the licence; no tests, no
    examples.
    """
    source = ROOT / "snapfs"
    wanted = {
        path.relative_to(ROOT).as_posix()
        for ending in ("*.py", "*.md", "py.typed")
        for path in source.rglob(ending)
    }
    assert {
        "snapfs/py.typed",
        "snapfs/doc/README.md",
        "snapfs/doc/design/commit.md",
        "snapfs/doc/format.md",
        "snapfs/copying/job.py",
    } <= wanted
    with zipfile.ZipFile(built.wheel) as files:
        names = set(files.namelist())
        (directory,) = {name.split("/")[0] for name in names} - {"snapfs"}
        assert {name for name in names if name.startswith("snapfs/")} == wanted
        assert re.fullmatch(r"snapfs-[0-9.]+\.dist-info", directory)
        assert f"{directory}/licenses/LICENSE" in names
        assert "License-Expression: MIT\n" in files.read(f"{directory}/METADATA").decode()
    with tarfile.open(built.sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert wanted | {"pyproject.toml", "README.md", "LICENSE"} <= inside
    assert not [name for name in inside if name.startswith(("tests", "examples"))]


def test_the_command_is_not_there_or_of_another_version(
    built: Built, installation: Installation
) -> None:
    """D8: the entry point is an installed script, and the links for mount(8) and the others lead to
    it.
    """
    script = (
        "import importlib.metadata, snapfs; print(snapfs.__file__); "
        "print(importlib.metadata.version('snapfs'))"
    )
    place, version = installation.run("python", "-c", script).splitlines()
    assert Path(place).is_relative_to(installation.top)
    assert installation.run("snapfs", "--version") == f"snapfs {version}\n"
    assert built.wheel.name.startswith(f"snapfs-{version}-")
    links = installation.elsewhere / "links"
    links.mkdir()
    installation.run("snapfs", "install-helpers", "--directory", links)
    assert {os.readlink(links / name) for name in os.listdir(links)} == {
        str(installation.top / "bin" / "snapfs")
    }
    run(
        links / "mkfs.snapfs",
        installation.elsewhere / "helper.img",
        "--size",
        "32M",
        cwd=installation.elsewhere,
    )
    assert "clean" in run(
        links / "fsck.snapfs", installation.elsewhere / "helper.img", cwd=installation.elsewhere
    )


# --- a copy under load ----------------------------------------------------------------------------


def hashes(top: Path) -> dict[str, str]:
    """Of every file below, by its path."""
    paths = [Path(directory, name) for directory, _, names in os.walk(top) for name in names]
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }


@contextlib.contextmanager
def mounted(installation: Installation, image: Path, mount: Path) -> Iterator[Path]:
    """A mount by the installed command, whose daemon must be of that installation."""
    mount.mkdir(exist_ok=True)
    installation.run("snapfs", "mount", image, mount)
    try:
        daemon = Path(
            "/proc", str(json.loads(installation.run("snapfs", "info", mount, "--json"))["pid"])
        )
        assert (daemon / "cmdline").read_bytes().split(b"\0")[1] == os.fsencode(
            installation.top / "bin" / "snapfs"
        )
        assert b"PYTHONPATH" not in (daemon / "environ").read_bytes()
        yield mount
    finally:
        installation.run("snapfs", "umount", mount)


@contextlib.contextmanager
def load(top: Path) -> Iterator[Callable[[], int]]:
    """Somebody overwrites, makes and deletes files all the time. What is
    yielded tells how often.
    """
    end = threading.Event()
    done = [0]
    failures: list[BaseException] = []

    def work() -> None:
        dice = random.Random(8)
        try:
            while not end.is_set():
                files = sorted(path for path in top.iterdir() if path.is_file())
                if len(files) > 40:
                    dice.choice(files).unlink()
                path = dice.choice([*files, top / f"new{dice.randrange(60)}"])
                with path.open("r+b" if path.exists() else "wb") as file:
                    file.seek(dice.randrange(MIB))
                    file.write(dice.randbytes(dice.randrange(1, 200_000)))
                    os.fsync(file.fileno())
                done[0] += 1
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: done[0]
    finally:
        end.set()
        thread.join(60)
        assert not thread.is_alive()
    assert not failures, failures


@pytest.mark.skipif(
    not Path("/dev/fuse").exists(),
    reason="/dev/fuse is missing: load the fuse module, or give the container the device",
)
def test_a_copy_by_the_installed_package_is_another_moment(
    installation: Installation, tmp_path: Path, wait_until
) -> None:
    """D8: D1 to D4 by what is in the wheel alone."""
    image, target = tmp_path / "volume.img", tmp_path / "copy.img"
    dice = random.Random(1)
    installation.run("snapfs", "mkfs", image, "--size", "128M")
    with mounted(installation, image, tmp_path / "now") as now:
        for number in range(20):
            (now / f"file{number}").write_bytes(dice.randbytes(MIB))
        installation.run("snapfs", "snapshot", "create", now, "monday")
        (now / "file3").write_bytes(dice.randbytes(MIB))
        (now / ".snap" / "monday" / "file4").write_bytes(b"written in the snapshot")
        before = hashes(now), hashes(now / ".snap" / "monday")
        installation.run("snapfs", "copy", now, target, "--rate", "500K", "--first", now / "file5")
        with load(now) as done:
            with mounted(installation, target, tmp_path / "then") as then:
                wait_until(lambda: done() > 30, 30, "the load")
                assert (hashes(then), hashes(then / ".snap" / "monday")) == before
                assert (
                    json.loads(installation.run("snapfs", "copy", "status", target, "--json"))[
                        "state"
                    ]
                    == "copying"
                )
            told = json.loads(
                installation.run(
                    "snapfs", "copy", "resume", now, "--rate", "max", "--wait", "--json"
                )
            )
            assert told["state"] == "complete"
        assert hashes(now) != before[0]
        assert hashes(now / ".snap" / "monday") == before[1]
        after = hashes(now)
    with mounted(installation, target, tmp_path / "then") as then:
        assert (hashes(then), hashes(then / ".snap" / "monday")) == before
    for path in (image, target):
        assert json.loads(installation.run("snapfs", "check", path, "--json"))["clean"]
    with mounted(installation, image, tmp_path / "now") as now:
        assert hashes(now) == after
