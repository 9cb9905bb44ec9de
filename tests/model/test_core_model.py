"""The core against a model, driven by Hypothesis: files in nested directories, snapshots of parts
and of snapshots, going back, purging.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.harness.effort import Effort
from tests.model.tree_model import EXCHANGE, NOREPLACE
from tests.model.world import NothingToDoItTo, World

SETTINGS = settings(
    deadline=None,  # a step may commit, and a loaded machine may take its time
    database=None,  # what fails is found again by its seed
    max_examples=50,
    stateful_step_count=40,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)

number = st.integers(0, 999)


class Willing:
    """A world in which what there is nothing to do to is left undone: a view may have no directory
    at all.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._world, name)
        if not callable(found):
            return found

        def willing(*args: Any, **kwargs: Any) -> Any:
            with suppress(NothingToDoItTo):
                return found(*args, **kwargs)

        return willing


class Core(RuleBasedStateMachine):
    """B1 to B4, A2, A4, A8 to A11, C1 to C7: no view shows another's changes, and the space of what
    is deleted comes back.
    """

    block_size = 4096
    blocks = 2048
    discards = False

    @initialize()
    def format(self) -> None:
        self.world = Willing(World(self.block_size, self.blocks, discards=self.discards))
        self.steps = 0

    @rule(which=number, where=number, name=number, kind=number, length=number)
    def make(self, which: int, where: int, name: int, kind: int, length: int) -> None:
        self.world.make(which, where, name, kind, 3 * length)

    @rule(which=number, where=number, count=st.integers(1, 40))
    def make_many(self, which: int, where: int, count: int) -> None:
        self.world.make_many(which, where, count)

    @rule(which=number, where=number)
    def unlink_many(self, which: int, where: int) -> None:
        self.world.unlink_many(which, where)

    @rule(which=number, file=number, where=number, name=number)
    def link(self, which: int, file: int, where: int, name: int) -> None:
        self.world.link(which, file, where, name)

    @rule(which=number, place=number, directory=st.booleans())
    def unlink(self, which: int, place: int, directory: bool) -> None:
        self.world.unlink(which, place, directory=directory)

    @rule(
        which=number,
        place=number,
        where=number,
        name=number,
        flags=st.sampled_from([0, 0, NOREPLACE, EXCHANGE]),
    )
    def rename(self, which: int, place: int, where: int, name: int, flags: int) -> None:
        self.world.rename(which, place, where, name, flags)

    @rule(
        which=number,
        file=number,
        block=st.integers(0, 700),
        skip=st.sampled_from([0, 0, 1, 77]),
        blocks=st.integers(0, 9),
        rest=st.sampled_from([0, 1, 99]),
    )
    def write(self, which: int, file: int, block: int, skip: int, blocks: int, rest: int) -> None:
        size = self.block_size
        self.world.write(
            which, file, (block if block < 300 else block % 10) * size + skip, blocks * size + rest
        )

    @rule(which=number, file=number, block=st.integers(0, 700), rest=st.sampled_from([0, 1, 99]))
    def truncate(self, which: int, file: int, block: int, rest: int) -> None:
        self.world.truncate(
            which, file, (block if block < 300 else block % 10) * self.block_size + rest
        )

    @rule(which=number, file=number, mode=st.sampled_from([0o600, 0o755, 0o4711]))
    def chmod(self, which: int, file: int, mode: int) -> None:
        self.world.chmod(which, file, mode)

    @rule(
        which=number, file=number, name=number, length=st.sampled_from([0, 5, 80, 500, 9000, 40000])
    )
    def set_attribute(self, which: int, file: int, name: int, length: int) -> None:
        self.world.set_attribute(which, file, name, length)

    @rule(which=number, file=number, name=number)
    def remove_attribute(self, which: int, file: int, name: int) -> None:
        self.world.remove_attribute(which, file, name)

    @rule(file=number)
    def hold(self, file: int) -> None:
        self.world.hold(file)

    @rule(which=number)
    def snapshot(self, which: int) -> None:
        self.world.snapshot(which)

    @rule(which=number, where=number)
    def snapshot_of(self, which: int, where: int) -> None:
        self.world.snapshot_of(which, where)

    @rule(which=number, place=number, another=number)
    def snapshot_of_several(self, which: int, place: int, another: int) -> None:
        self.world.snapshot_of_several(which, place, another)

    @precondition(lambda self: self.world.snaps)
    @rule(which=number)
    def delete(self, which: int) -> None:
        self.world.delete(which)

    @precondition(lambda self: self.world.snaps)
    @rule(which=number)
    def rename_snapshot(self, which: int) -> None:
        self.world.rename_snapshot(which)

    @precondition(lambda self: self.world.snaps)
    @rule(which=number)
    def restore(self, which: int) -> None:
        self.world.restore(which)

    @precondition(lambda self: self.world.snaps)
    @rule(which=number, place=number)
    def restore_path(self, which: int, place: int) -> None:
        self.world.restore_path(which, place)

    @precondition(lambda self: self.world.snaps)
    @rule(which=number, place=number, everywhere=st.booleans())
    def purge(self, which: int, place: int, everywhere: bool) -> None:
        self.world.purge(which, place, everywhere=everywhere)

    @rule(which=number, blocks=number)
    def copy(self, which: int, blocks: int) -> None:
        self.world.copy(which, blocks)

    @rule(steps=st.sampled_from([1, 2, 100]))
    def work(self, steps: int) -> None:
        self.world.work(steps)

    @rule()
    def commit(self) -> None:
        self.world.commit()

    @rule()
    def reopen(self) -> None:
        self.world.reopen()

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @invariant()
    def views_are_what_the_model_says(self) -> None:
        self.steps += 1
        if self.steps % 10 == 0:
            self.world.compare()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block_size", "blocks", "seeds", "discards"),
    [
        pytest.param(4096, 4096, 5, False, id="4K"),
        pytest.param(4096, 512, 5, False, id="4K-nearly-full"),
        pytest.param(4096, 512, 3, True, id="4K-nearly-full-with-discards"),
        pytest.param(8192, 2048, 3, True, id="8K-with-discards"),
        pytest.param(65536, 512, 1, False, id="64K"),
    ],
)
def test_a_view_differs_from_what_was_done_to_it(
    block_size: int, blocks: int, seeds: int, discards: bool, effort: Effort
) -> None:
    """I6, I10, A10, A11, B3: no view differs from the plain model, and deleting all leaves a fresh
    volume.
    """
    kind = type("Core", (Core,), {"block_size": block_size, "blocks": blocks, "discards": discards})
    for number in effort.seeds(seeds):
        with effort.sample(number):
            run_state_machine_as_test(seed(number)(kind), settings=SETTINGS)
