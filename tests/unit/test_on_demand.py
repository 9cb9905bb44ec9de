"""Reports that are asked for by a signal: one that fails, or comes at the wrong time, ends nothing.

In a process of its own, as the signal ends whoever has not blocked it in all threads.
"""

from __future__ import annotations

import subprocess
import sys

#: Keeps what is logged; ``ask`` sends the signal, and waits for a line that has a word.
_BEGIN = """
import logging, os, signal, sys, threading
import trio
from snapfs.cli.mounting.on_demand import SIGNAL, OnDemand

told, some = [], threading.Condition()

class Handler(logging.Handler):
    def emit(self, record):
        with some:
            told.append(self.format(record))
            some.notify_all()

logging.getLogger("snapfs").addHandler(Handler())
logging.getLogger("snapfs").setLevel("ERROR")
logging.getLogger("snapfs").propagate = False

def ask(word):
    os.kill(os.getpid(), SIGNAL)
    with some:
        assert some.wait_for(lambda: any(word in line for line in told), 30), told
"""


def _run(script: str) -> None:
    command = [sys.executable, "-c", _BEGIN + script]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr


def test_a_signal_when_nothing_is_mounted_is_answered_or_ignored() -> None:
    """Before, and when the daemon is about to end: it would end without its last words."""
    _run("""
with OnDemand():
    ask("nothing is mounted")
    for _ in range(3):  # the last ones are not answered any more
        os.kill(os.getpid(), SIGNAL)
assert SIGNAL not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
os.kill(os.getpid(), SIGNAL)
told.clear()
with OnDemand():
    ask("nothing is mounted")
""")


def test_a_report_that_fails_ends_neither_the_loop_nor_the_thread() -> None:
    _run("""
class Report:
    def lines(self, asker):
        raise ValueError("a defect")

async def main(on_demand):
    on_demand.begin(trio.lowlevel.current_trio_token(), Report())
    await trio.to_thread.run_sync(ask, "a report cannot be made: internal error")
    told.clear()
    await trio.to_thread.run_sync(ask, "a defect")

with OnDemand() as on_demand:
    trio.run(main, on_demand)
    told.clear()
    Report.from_outside = lambda self: ["the loop has ended"]
    ask("the loop has ended")
    on_demand.end()
    told.clear()
    ask("nothing is mounted")
""")


def test_a_loop_that_is_stuck_is_reported_from_outside() -> None:
    _run("""
class Report:
    def lines(self, asker):
        raise AssertionError("nobody asks a loop that does not answer")

    def from_outside(self):
        return ["told from outside"]

async def main(on_demand):
    on_demand.begin(trio.lowlevel.current_trio_token(), Report())
    ask("told from outside")  # which keeps the loop
    on_demand.end()
    os._exit(0)  # or it would be asked now

with OnDemand() as on_demand:
    trio.run(main, on_demand)
""")
