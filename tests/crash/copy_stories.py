"""Stories of copies, for the crash tests: on a small volume that is nearly full, so that what a
copy needs is used again and again.
"""

from __future__ import annotations

from collections.abc import Callable

from snapfs.copying.job import Wishes
from tests.crash.copy_stage import CopyStage


def to_the_end(stage: CopyStage) -> None:
    """A copy is made while the volume is written all the time."""
    stage.furnish()
    stage.start()
    stage.churn(3)
    stage.begin(first="d")
    stage.contend(25)
    stage.churn(20)
    stage.finish()
    stage.churn(10)


def with_pauses(stage: CopyStage) -> None:
    """Nothing is copied behind, and then at another rate; what is overwritten is copied all the
    same.
    """
    stage.furnish()
    stage.start()
    stage.begin(wishes=Wishes(paused=True))
    stage.contend(15)
    stage.remember(paused=False)
    stage.churn(10)
    stage.remember(paused=True, rate=5)
    stage.contend(15)
    stage.remember(paused=False, rate=None)
    stage.finish()
    stage.churn(5)


def cancelled(stage: CopyStage) -> None:
    """One is given up, and another one made to the same device, which is given up as well; and a
    third.
    """
    stage.furnish()
    stage.start()
    for _ in range(2):
        stage.begin()
        stage.contend(10)
        stage.cancel()
        stage.churn(8)
    stage.begin(first="d")
    stage.contend(5)
    stage.finish()


def failed(stage: CopyStage) -> None:
    """The target fails, and what was not copied is overwritten; then another copy is made to it."""
    stage.furnish()
    stage.start()
    for _ in range(2):
        stage.begin()
        stage.contend(10)
        stage.fail()
        stage.churn(5)
    stage.begin()
    stage.contend(5)
    stage.finish()


def with_crashes(stage: CopyStage) -> None:
    """The power fails again and again, soon after everything was going on."""
    stage.furnish()
    stage.start()
    stage.begin(first="d")
    for _ in range(6):
        stage.contend(stage.rng.randrange(1, 12))
        stage.crash()
        stage.churn(1)
        stage.crash()
    stage.finish()
    stage.crash()
    stage.churn(5)


#: Name -> (story, blocks of its volume, whether the map is outside).
STORIES: dict[str, tuple[Callable[[CopyStage], None], int, bool]] = {
    "copy": (to_the_end, 320, False),
    "copy_outside": (to_the_end, 320, True),
    "copy_paused": (with_pauses, 320, False),
    "copy_cancelled": (cancelled, 320, False),
    "copy_cancelled_outside": (cancelled, 320, True),
    "copy_failed": (failed, 320, False),
    "copy_failed_outside": (failed, 320, True),
    "copy_crashes": (with_crashes, 320, False),
    "copy_crashes_outside": (with_crashes, 320, True),
}
