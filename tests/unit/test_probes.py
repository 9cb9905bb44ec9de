"""Rare situations with names: each is in the code, and each has a test that must come to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from snapfs import probes
from tests.harness.hits import VARIABLE

HERE = Path(__file__).parents[1]

pytest_plugins = ["pytester"]


def named(directory: Path, pattern: str) -> set[str]:
    """The names that the pattern's group finds in all modules there."""
    found: set[str] = set()
    for path in directory.rglob("*.py"):
        if path != Path(__file__):
            found.update(re.findall(pattern, path.read_text()))
    return found


def test_a_situation_has_a_name_and_is_nowhere() -> None:
    in_code = named(HERE.parent / "snapfs", r"probes\.([A-Z_]+)\b")
    assert in_code == probes.PROBES.keys()


def test_a_situation_is_asked_for_by_no_test() -> None:
    """A whole run that passes has been in each of them: a test that claims one fails without it."""
    claimed: set[str] = set()
    for path in HERE.rglob("test_*.py"):
        text = path.read_text()
        claims = re.findall(r"mark\.reaches\(([^)]*)\)", text)
        claims += re.findall(r"^REACHES = \{(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL)
        claimed.update(name for claim in claims for name in re.findall(r"probes\.([A-Z_]+)", claim))
    assert claimed == probes.PROBES.keys()


def test_two_situations_are_told_apart_by_nothing() -> None:
    meanings = [probe.meaning for probe in probes.PROBES.values()]
    assert len(set(meanings)) == len(meanings) >= 20


TESTS = """
    import pytest
    from snapfs import probes

    @pytest.mark.reaches(probes.RING_LOST)
    def test_that_comes_there():
        probes.RING_LOST.hit()

    @pytest.mark.reaches(probes.RING_LOST, probes.LOG_FULL)
    def test_that_no_longer_does():
        probes.RING_LOST.hit()

    @pytest.mark.reaches(probes.RING_LOST)
    def test_that_fails_by_itself():
        assert False
"""


@pytest.mark.parametrize(
    ("processes", "selected", "passed", "failed"), [("0", "longer_does", 0, 1), ("2", "that", 1, 2)]
)
def test_a_simulation_that_no_longer_comes_somewhere_passes(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    processes: str,
    selected: str,
    passed: int,
    failed: int,
) -> None:
    """Also in a part of a run, and in several processes; what was reached is told at the end."""
    monkeypatch.delenv(VARIABLE)  # it is a run of its own
    pytester.makeini("[pytest]\nmarkers = reaches(*probes): as ours\n")
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess(
        "-p", "tests.harness.probing", "-p", "no:cacheprovider", "-n", processes, "-k", selected
    )
    outcomes = result.parseoutcomes()
    assert (outcomes.get("passed", 0), outcomes.get("failed", 0)) == (passed, failed)
    result.stdout.fnmatch_lines(
        ["*does not come to where a record does not fit*", "probes: 1 of * were reached"]
    )
