"""A full copy as a protocol so small that every order of its steps is tried (D3, D5, D7).

Flushes may fail, and a crash may come anywhere.

Two blocks are copied. The source's user overwrites each of them once, and the store flushes the
source at any time. Each device has what is durable and what is ``pending``: a flush makes that
durable, or fails, and then any of it may be gone and no later flush says so. A crash keeps any
subset of it. The map has one sector, which is written whole, in blocks of the source or on a
device of its own (``outside``).

Two threads copy. ``writer`` holds the lock from the first of its steps to the last one before it
overwrites; ``behind`` holds it only while it looks:

    writer      copy the block, flush the target, set its bit, flush the map; then overwrite
    behind      copy a block; readers of the copy do so, too, at any time when the lock is free
                settle: take what was copied, flush the target, set the bits, flush the map;
                then it counts as copied

A thread whose flush fails, or which finds that another thread's has failed, forgets what was
copied and is not durable. Then the write fails (``copy_first``), or the copy: its failure is
durable before anything is overwritten.

At every moment each block is as it was, in the target if its bit is set, else in the source, or
the volume says that the copy has failed. Each of ``FLAWS`` leaves out one rule, and the model must
find a story in which that matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, combinations, product
from typing import NamedTuple

from tests.model.exploring import Wrong, explore

Set = frozenset[int]
BLOCKS: Set = frozenset({0, 1})
NONE: Set = frozenset()

#: What a flaw leaves out.
FLAWS = {
    "bit early": "a bit is set before the copy is flushed",
    "write early": "a block is overwritten before its bit is flushed",
    "unsettled": "a block that is copied and not durable counts as copied",
    "runs late": "what is settled is what was copied when the flush has returned",
    "losses": "that another thread's flush failed is not noticed",
    "not forgotten": "what was copied before a flush that failed is settled by the next one",
    "lost": "the source is written after one of its flushes has failed",
    "failure early": "blocks are overwritten before the failure of the copy is durable",
    "left thread": "a thread that was left writes to the map of a copy that has ended",
}


class State(NamedTuple):
    copy_first: bool
    outside: bool
    # On the devices: what is durable, and what was written since the last flush.
    source: Set = NONE  # blocks that are overwritten
    source_pending: Set = NONE
    target: Set = NONE  # blocks whose copy is there
    target_pending: Set = NONE
    map: Set = NONE  # the bits
    map_pending: tuple[Set, ...] = ()
    mark: bool = False  # the volume says that the copy has failed
    mark_pending: bool = False
    # In memory
    remaining: Set = BLOCKS  # needed, and not copied durably
    bits: Set = NONE
    written: Set = NONE  # copied behind, to be settled
    losses: int = 0
    is_lost: bool = False  # a flush of the source has failed
    has_failed: bool = False
    is_over: bool = False  # the map's blocks are somebody else's
    lock: str = ""
    writer: tuple[str, int, int] = (
        "",
        0,
        0,
    )  # what comes next, the block, the losses when it began
    behind: tuple[str, Set, int] = ("", NONE, 0)
    failures: int = 0  # of flushes, left to happen, as the next one
    crashes: int = 0  # that the story goes on after; each state is looked at as if there were one

    @property
    def seen(self) -> Set:
        """What the source's user has overwritten."""
        return self.source | self.source_pending


def subsets(some: Set) -> Iterator[Set]:
    return map(
        frozenset,
        chain.from_iterable(combinations(sorted(some), size) for size in range(len(some) + 1)),
    )


def flush_target(state: State) -> Iterator[tuple[str, State]]:
    yield "", state._replace(target=state.target | state.target_pending, target_pending=NONE)
    if state.failures:
        for arrived in subsets(state.target_pending):
            yield (
                " fails",
                state._replace(
                    target=state.target | arrived, target_pending=NONE, failures=state.failures - 1
                ),
            )


def flush_map(state: State) -> Iterator[tuple[str, State]]:
    if not state.outside:
        yield from flush_source(state)
        return
    kept = state.map_pending[-1] if state.map_pending else state.map
    yield "", state._replace(map=kept, map_pending=())
    if state.failures:
        for arrived in {state.map, *state.map_pending}:
            yield " fails", state._replace(map=arrived, map_pending=(), failures=state.failures - 1)


def flush_source(state: State) -> Iterator[tuple[str, State]]:
    """Everything that is there, the map too unless it is outside. A failure ends all writing."""
    if state.is_lost:
        yield " is too late", state
        return
    bits = () if state.outside else state.map_pending
    left = state._replace(
        source_pending=NONE,
        mark_pending=False,
        map_pending=state.map_pending if state.outside else (),
    )
    yield (
        "",
        left._replace(
            source=state.seen,
            mark=state.mark or state.mark_pending,
            map=bits[-1] if bits else state.map,
        ),
    )
    if state.failures:
        for arrived, sector, mark in product(
            subsets(state.source_pending), {state.map, *bits}, {state.mark, state.mark_pending}
        ):
            yield (
                " fails",
                left._replace(
                    source=state.source | arrived,
                    map=sector,
                    mark=state.mark or mark,
                    is_lost=True,
                    failures=state.failures - 1,
                ),
            )


def steps_with(flaw: str) -> Callable[[State], Iterator[tuple[str, State]]]:
    def set_bits(state: State, blocks: Set) -> State | None:
        """None: the copy has ended."""
        if state.has_failed and flaw != "left thread":
            return None
        bits = state.bits | blocks
        is_there = (state.map, *state.map_pending)[-1] == bits
        return state._replace(
            bits=bits, map_pending=state.map_pending if is_there else (*state.map_pending, bits)
        )

    def forgotten(state: State) -> State:
        return state if flaw == "not forgotten" else state._replace(written=NONE)

    def noticed(before: int, flushes: Iterable[tuple[str, State]]) -> Iterator[tuple[bool, State]]:
        """Whether a flush worked, for all that was written since there were so many losses."""
        for how, after in flushes:
            if how:
                yield False, after._replace(losses=after.losses + (how == " fails"))
            else:
                yield after.losses == before or flaw == "losses", after

    def writing(state: State) -> Iterator[tuple[str, State]]:
        what, block, before = state.writer
        if not what:
            for one in BLOCKS - state.seen:
                waits = one in state.remaining and (flaw != "unsettled" or one not in state.written)
                if state.has_failed or not waits:
                    yield f"write {one}", state._replace(writer=("write", one, 0))
                elif not state.lock:
                    after = state._replace(
                        lock="writer", target_pending=state.target_pending | {one}
                    )
                    after = (
                        after if flaw != "bit early" else set_bits(after, frozenset({one})) or after
                    )
                    yield (
                        f"copy {one} first",
                        after._replace(writer=("flush target", one, state.losses)),
                    )
        elif what == "flush target":
            for works, after in noticed(before, flush_target(state)):
                yield from then(after, works, ("set", block, before), "writer flushes the target")
        elif what == "set":
            bit = set_bits(state, frozenset({block}))
            following = "done" if flaw == "write early" else "flush map"
            yield from then(
                bit or state,
                bit is not None,
                (following, block, before),
                f"writer sets bit {block}",
            )
        elif what == "flush map":
            for works, after in noticed(before, flush_map(state)):
                yield from then(after, works, ("done", block, before), "writer flushes the map")
        elif what == "done":
            yield (
                f"{block} is copied",
                state._replace(
                    lock="",
                    remaining=state.remaining - {block},
                    written=state.written,
                    writer=("write", block, 0),
                ),
            )
        elif what == "write" and (not state.is_lost or flaw == "lost"):
            yield (
                f"overwrite {block}",
                state._replace(source_pending=state.source_pending | {block}, writer=("", 0, 0)),
            )
        elif what == "fail":
            yield from failing(state, state._replace(writer=("write", block, 0)), "writer")

    def then(
        state: State, works: bool, following: tuple[str, int, int], name: str
    ) -> Iterator[tuple[str, State]]:
        if works:
            yield name, state._replace(writer=following)
        else:
            way = ("", 0, 0) if state.copy_first else ("fail", following[1], 0)
            yield f"{name}, in vain", forgotten(state)._replace(lock="", writer=way)

    def copying(state: State) -> Iterator[tuple[str, State]]:
        what, runs, before = state.behind
        if not what:
            if state.lock or state.has_failed:
                return
            if state.written:
                after = state if flaw == "runs late" else state._replace(written=NONE)
                yield "settle", after._replace(behind=("flush target", state.written, state.losses))
        elif what == "flush target":
            for works, after in noticed(before, flush_target(state)):
                yield from settled(after, works, ("set", runs, before), "behind flushes the target")
        elif what == "set" and not state.lock:
            if flaw == "runs late":
                runs, state = state.written, state._replace(written=NONE)
            bits = set_bits(state, runs)
            yield from settled(
                bits or state, bits is not None, ("flush map", runs, before), "behind sets bits"
            )
        elif what == "flush map":
            for works, after in noticed(before, flush_map(state)):
                yield from settled(after, works, ("done", runs, before), "behind flushes the map")
        elif what == "done" and not state.lock:
            yield "settled", state._replace(remaining=state.remaining - runs, behind=("", NONE, 0))
        elif what == "forget" and not state.lock:
            way = "" if state.copy_first or state.has_failed else "fail"
            yield "behind forgets", forgotten(state)._replace(behind=(way, NONE, 0))
        elif what == "fail":
            yield from failing(state, state._replace(behind=("", NONE, 0)), "behind")

    def settled(
        state: State, works: bool, following: tuple[str, Set, int], name: str
    ) -> Iterator[tuple[str, State]]:
        if works:
            yield name, state._replace(behind=following)
        else:
            yield f"{name}, in vain", state._replace(behind=("forget", NONE, 0))

    def failing(state: State, after: State, who: str) -> Iterator[tuple[str, State]]:
        """The volume says so, durably; or nothing may be written to it any more."""
        if state.has_failed:
            yield f"{who}: it has failed", after
        elif flaw == "failure early":
            yield f"{who} fails the copy", after._replace(mark_pending=True, has_failed=True)
        else:
            for _, now in flush_source(after._replace(mark_pending=True)):
                yield f"{who} fails the copy", now._replace(has_failed=True)

    def others(state: State) -> Iterator[tuple[str, State]]:
        if not state.lock and not state.has_failed:
            for one in state.remaining - state.written:
                after = state._replace(
                    target_pending=state.target_pending | {one}, written=state.written | {one}
                )
                yield f"copy {one} behind", after
        if not state.is_lost:
            for how, after in flush_source(state):
                yield f"the store's flush{how}", after
        if state.has_failed and not state.is_over and not state.is_lost and not state.outside:
            yield "the map is given back", state._replace(is_over=True, map_pending=())
        if state.crashes:
            for source, target, sector, mark in product(
                subsets(state.source_pending),
                subsets(state.target_pending),
                {state.map, *state.map_pending},
                {state.mark, state.mark_pending},
            ):
                if not state.mark and not mark:
                    yield (
                        "crash",
                        State(
                            state.copy_first,
                            state.outside,
                            source=state.source | source,
                            target=state.target | target,
                            map=sector,
                            remaining=BLOCKS - sector,
                            bits=sector,
                            failures=state.failures,
                            crashes=state.crashes - 1,
                        ),
                    )

    def steps(state: State) -> Iterator[tuple[str, State]]:
        for kind in (writing, copying, others):
            yield from kind(state)

    return steps


def wrong(state: State) -> str | None:
    if state.is_over:
        return (
            "the map is written, and its blocks are somebody else's" if state.map_pending else None
        )
    for block in BLOCKS:
        sectors = [state.map, *state.map_pending]
        if not state.mark and any(block in bits for bits in sectors) and block not in state.target:
            return f"after a crash the bit of {block} may be set, and its copy may be gone"
        if not state.mark and any(block not in bits for bits in sectors) and block in state.seen:
            return f"after a crash {block} may be overwritten, and its bit not set"
        if not state.has_failed and block not in state.bits and block in state.seen:
            return f"{block} cannot be read as it was"
        if (
            not state.has_failed
            and block not in state.remaining
            and (block not in state.target or block not in state.map)
        ):
            return f"{block} counts as copied, and that is not durable"
    return None


def run(flaw: str = "") -> int:
    """How many states there are. Raises ``exploring.Wrong``."""
    kinds = list(product((False, True), repeat=2))
    failing = [State(*kind, failures=1) for kind in kinds]
    crashing = [State(*kind, crashes=1) for kind in kinds]
    return explore([*failing, *crashing], steps_with(flaw), wrong)


if __name__ == "__main__":
    print(f"{run():,} states, all right")
    for each, what in FLAWS.items():
        try:
            run(each)
        except Wrong as exc:
            print(f"without a rule, {what}: {exc}")
        else:
            raise SystemExit(f"not caught: {what}")
