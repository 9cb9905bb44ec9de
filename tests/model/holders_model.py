"""The rules of holders, as a model that brute force can check (I1, I3; A3 to A11, B1 to B6).

Random histories are played, and all rules are compared with what the views reach after each step.

Blocks carry the epoch in which they were born. E is the volume's epoch; making a snapshot of the
base gives the snapshot E and moves E on. A block's holders are the instances whose view reaches it.
They follow from:

- default, for a block that the base reaches and no record names: live instances whose epoch >= the
  block's epoch;
- a record (base_held=False, holders): exactly these; the base does not reach the block;
- a record (base_held=True, since, holders): these, and every live instance whose epoch >= since.

base drops p          holders(p) empty: free it; else record (False, holders(p))
view i drops p        base reaches p: record (True, E, holders(p) - {i}); else take i out of the
                      block's record, and free the block when that is empty
view i writes q       a new block with record (False, {i})
snapshot of view a    new instance b with a's epoch; b joins every record that names a
delete i              i leaves every record; records of blocks that the base does not reach are
                      freed when empty
restore i             snapshot the base first (undo); what only the base reached is dropped by it;
                      what only i reached becomes base-held with since=E; the base takes i's map

Each of ``FLAWS`` leaves out one rule, and some history must show that it is missing. Run as a
program, the model prints how many steps were right.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass

#: What a flaw leaves out.
FLAWS = {
    "freed by the base": "what the base drops is freed whoever holds it",
    "no epoch": "every snapshot holds what the base drops, however old it is",
    "shared": "a view that drops what the base reaches leaves no record",
    "freed by a view": "what a view drops is freed although another one holds it",
    "not joined": "a snapshot of a snapshot joins no records",
    "still named": "a snapshot that is deleted stays in the records",
    "since too early": "restored blocks are held by the snapshots that were made before, too",
    "kept by the base": "what only the base had keeps its default when another state is restored",
}

#: Positions of a view, and instances, at most.
WIDTH, INSTANCES = 12, 20


class Wrong(Exception):
    """The rules and what the views reach differ."""


@dataclass
class Record:
    base_held: bool
    since: int
    holders: set[int]


class Model:
    def __init__(self, flaw: str = "") -> None:
        self.flaw = flaw
        self.epoch = 1
        self.born: dict[int, int] = {}
        self.base: dict[int, int] = {}
        self.views: dict[int, dict[int, int]] = {}
        self.epochs: dict[int, int] = {}
        self.records: dict[int, Record] = {}
        self.allocated: set[int] = set()

    # Rules

    def new(self) -> int:
        block = len(self.born) + 1
        self.born[block] = self.epoch
        self.allocated.add(block)
        return block

    def free(self, block: int) -> None:
        self.records.pop(block, None)
        self.allocated.discard(block)

    def since(self, epoch: int) -> set[int]:
        return {one for one in self.views if self.epochs[one] >= epoch}

    def holders(self, block: int) -> set[int]:
        record = self.records.get(block)
        if record is None:
            return self.since(0 if self.flaw == "no epoch" else self.born[block])
        return (
            record.holders | self.since(record.since) if record.base_held else set(record.holders)
        )

    def base_drops(self, block: int) -> None:
        left = self.holders(block)
        if left and self.flaw != "freed by the base":
            self.records[block] = Record(False, 0, left)
        else:
            self.free(block)

    def view_drops(self, one: int, block: int) -> None:
        if block in self.base.values():
            if self.flaw != "shared":
                self.records[block] = Record(True, self.epoch, self.holders(block) - {one})
            return
        record = self.records[block]
        record.holders.discard(one)
        if not record.holders or self.flaw == "freed by a view":
            self.free(block)

    # What users do

    def write(self, at: int, *, keep: bool) -> None:
        old = self.base.pop(at, None)
        if keep:
            self.base[at] = self.new()
        if old is not None:
            self.base_drops(old)

    def view_write(self, one: int, at: int, *, keep: bool) -> None:
        old = self.views[one].pop(at, None)
        if old is not None:
            self.view_drops(one, old)
        if keep:
            block = self.new()
            self.records[block] = Record(False, 0, {one})
            self.views[one][at] = block

    def snapshot(self, source: int | None = None) -> None:
        one = next(number for number in range(1, 2 * INSTANCES) if number not in self.views)
        if source is None:
            self.views[one], self.epochs[one] = dict(self.base), self.epoch
            self.epoch += 1
            return
        for record in self.records.values():
            if source in record.holders and self.flaw != "not joined":
                record.holders.add(one)
        self.views[one], self.epochs[one] = dict(self.views[source]), self.epochs[source]

    def delete(self, one: int) -> None:
        del self.views[one], self.epochs[one]
        for block, record in list(self.records.items()):
            if self.flaw != "still named":
                record.holders.discard(one)
            if not record.base_held and not record.holders:
                self.free(block)

    def restore(self, one: int) -> None:
        self.snapshot()
        only_base = set(self.base.values()) - set(self.views[one].values())
        only_view = set(self.views[one].values()) - set(self.base.values())
        for block in only_base:
            if self.flaw != "kept by the base":
                self.base_drops(block)
        for block in only_view:
            self.records[block].base_held = True
            self.records[block].since = 0 if self.flaw == "since too early" else self.epoch
        self.base = dict(self.views[one])

    # What must be so

    def verify(self) -> None:
        reach: dict[int, set[int]] = {}
        for one, view in self.views.items():
            for block in view.values():
                reach.setdefault(block, set()).add(one)
        in_base = set(self.base.values())
        if in_base | set(reach) != self.allocated:
            raise Wrong(
                f"allocated and reached differ: {sorted((in_base | set(reach)) ^ self.allocated)}"
            )
        for block in self.allocated:
            if self.holders(block) != reach.get(block, set()):
                held, reached = sorted(self.holders(block)), sorted(reach.get(block, set()))
                raise Wrong(f"block {block} is held by {held}, reached by {reached}")
            record = self.records.get(block)
            if (block in in_base) != (record is None or record.base_held):
                raise Wrong(f"block {block}: what its record says of the base is not so")


def run(seed: int, steps: int = 300, flaw: str = "") -> None:
    """One random history. Raises ``Wrong``."""
    rng, model = random.Random(seed), Model(flaw)
    for _ in range(steps):
        choice, at = rng.random(), rng.randrange(WIDTH)
        some = rng.choice(list(model.views)) if model.views else None
        room = len(model.views) < INSTANCES
        if choice < 0.45:
            model.write(at, keep=rng.random() < 0.8)
        elif choice < 0.65 and some:
            model.view_write(some, at, keep=rng.random() < 0.8)
        elif choice < 0.80 and room:
            model.snapshot()
        elif choice < 0.85 and some and room:
            model.snapshot(some)
        elif choice < 0.93 and some:
            model.delete(some)
        elif some and room:
            model.restore(some)
        model.verify()


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for number in range(count):
        run(number)
    print(f"{count * 300:,} steps, all right")
