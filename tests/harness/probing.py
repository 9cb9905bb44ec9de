"""Which rare situations the tests come to: the probes of ``snapfs.probes``, counted and asked for.

``@pytest.mark.reaches(probes.ONE, probes.ANOTHER)``
    The test is a simulation that comes to these situations, in its own process. It fails when it
    has passed without one of them: then nothing simulates that situation any more. What one test
    reaches does not depend on which tests run beside it, so this holds for any part of a run, and
    in several processes. That each probe is asked for by some test is itself a test
    (``unit/test_probes.py``), so a whole run that passes has been everywhere.

At the end of a run a line says how many probes were reached by all tests together, also in the
daemons that they started (``hits``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from snapfs import probes
from tests.harness.hits import VARIABLE, install, reached

#: So many probes that were not reached are named without ``-v``.
NAMED = 8


def pytest_configure(config: pytest.Config) -> None:
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="snapfs-probes-")
        os.chmod(os.environ[VARIABLE], 0o1777)  # daemons of other users note theirs
        config.add_cleanup(_end)
    install()


def reaching(names: Iterable[str], claims: Mapping[str, Sequence[probes.Probe]]) -> list[Any]:
    """Parameters for a test, each of which has to reach what is claimed for it."""
    return [pytest.param(name, marks=pytest.mark.reaches(*claims.get(name, ()))) for name in names]


def _end() -> None:
    shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    wanted = [probe for marker in item.iter_markers("reaches") for probe in marker.args]
    before = [probe.hits for probe in wanted]
    found = yield
    if never := [p.meaning for p, hits in zip(wanted, before, strict=True) if p.hits == hits]:
        pytest.fail(f"this simulation does not come to where {'; or where '.join(never)}")
    return found


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.option.verbose < 0 or not (found := reached()):
        return
    never = sorted(probes.PROBES.keys() - found)
    terminalreporter.write_line(f"probes: {len(found)} of {len(probes.PROBES)} were reached")
    if never and (len(never) <= NAMED or config.option.verbose > 0):
        terminalreporter.write_line(f"probes: not reached: {', '.join(never)}")
