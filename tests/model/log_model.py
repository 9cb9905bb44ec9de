"""The log, commits and discards as a protocol so small that every order of its steps is tried.

A crash may come anywhere (I4, I5, I8).

The volume has one file of one block. The user writes it, or empties it, which stands for every
change that no record of the log can tell. What is written is ``pending`` until a flush; a crash
keeps any subset of it and tears one write.

write       In place if the block is fresh; else to a free block, and the old block waits for a
            commit.
record      fsync while nothing else is on its way: a record names the block and its content, which
            must stay as they are from then on.
seal        The blocks that waited fly with this generation. The generation keeps its log, gives it
            up, or takes one, which is made empty first.
flush       Durable are: the record; or what the sealed generation names, and its superblock is
            written; or that superblock.
discard     A block whose generation is durable is discarded before it is given out, unless
            somebody needs it at once.
crash       The newest superblock counts, then the records of its own generation, in order, as far
            as what they name is there.

A crash must show what was promised last, or what was on its way. Each of ``FLAWS`` leaves out one
rule, and the model must find a story in which that matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from tests.model.exploring import Wrong, explore, outcomes

SLOTS, BLOCKS, LOG = range(2), range(2, 6), 2
TORN, EMPTY, GARBAGE = "torn", "empty", "garbage"

#: What a flaw leaves out.
FLAWS = {
    "superblock early": "the superblock is written before what it names is flushed",
    "commit early": "a commit is acknowledged before the flush of its superblock",
    "record early": "a record is acknowledged before its flush",
    "reused early": "what is freed is given out before that is durable",
    "discarded early": "what is freed is discarded before that is durable",
    "log reused early": "a log that is given up is given out before that is durable",
    "in place": "what a record names is overwritten in place, or given out again",
    "overtaken": "a record is written for a generation whose superblock is on its way",
    "untold": "a record is written although something else has happened as well",
    "stale": "records of another generation count",
    "unverified": "a record counts although its block did not arrive",
    "not emptied": "what was in the blocks of a new log is left there",
    "found log": "a log that was found after a crash is written from its start",
    "given away": "what the records name that were found is given out after a crash",
    "during discard": "a block is given out while it is being discarded",
}


class Super(NamedTuple):
    generation: int
    block: int
    data: int
    seen: int
    log: tuple[int, ...]


class Record(NamedTuple):
    generation: int
    number: int
    block: int
    data: int
    seen: int


class State(NamedTuple):
    disk: tuple[Any, ...]
    pending: tuple[tuple[int, Any], ...] = ()
    block: int = 0  # of the file; 0: none
    data: int = 0  # what is in it: the change that wrote it
    seen: int = 0  # what users see, as the number of the last change
    fresh: frozenset[int] = frozenset()
    waiting: frozenset[int] = frozenset()
    flying: frozenset[int] = frozenset()
    due: frozenset[int] = frozenset()
    discarding: int = 0
    generation: int = 1
    log: tuple[int, ...] = ()
    is_ours: bool = False  # may its log be written?
    records: int = 0
    is_told: bool = True  # since the last seal the file was only written
    is_logged: bool = True  # and no record is missing
    way: str = ""  # what is being made durable: "record", "blocks", "superblock"
    sealed: Super | None = None
    promised: int = 0
    coming: int = 0
    changes: int = 3  # left to be made, as the next two
    seals: int = 2
    crashes: int = 1  # that the story goes on after; each state is looked at as if there were one


CHANGES = State(()).changes

#: A new volume; and one whose file is in the first block, with a log.
BEGINNINGS = (
    State((EMPTY, Super(1, 0, 0, 0, ()), *[EMPTY] * len(BLOCKS))),
    State(
        (EMPTY, Super(1, 2, 0, 0, (4, 5)), 0, *[EMPTY] * (len(BLOCKS) - 1)),
        block=2,
        log=(4, 5),
        is_ours=True,
    ),
)


def free(state: State, flaw: str = "") -> list[int]:
    taken = {state.block, *state.waiting, *state.flying, *state.due, *state.log}
    return [
        block
        for block in BLOCKS
        if block not in taken and (block != state.discarding or flaw == "during discard")
    ]


def put(state: State, *writes: tuple[int, Any]) -> State:
    return state._replace(pending=state.pending + writes)


def flushed(state: State) -> State:
    written = dict(state.pending)
    return state._replace(
        disk=tuple(written.get(place, old) for place, old in enumerate(state.disk)), pending=()
    )


def steps_with(flaw: str) -> Callable[[State], Iterator[tuple[str, State]]]:
    def drop(state: State) -> State:
        if state.block in state.fresh or flaw == "reused early":
            return state._replace(fresh=state.fresh - {state.block})
        if flaw == "discarded early":
            return state._replace(due=state.due | {state.block} - {0})
        return state._replace(waiting=state.waiting | {state.block} - {0})

    def change(state: State) -> Iterator[tuple[str, State]]:
        if not state.changes:
            return
        now = CHANGES - state.changes + 1
        after = state._replace(seen=now, changes=state.changes - 1)
        if state.block in state.fresh:
            yield (
                f"write {state.block} in place",
                put(after._replace(data=now, is_logged=False), (state.block, now)),
            )
        else:
            for place in free(state, flaw)[:1]:
                moved = drop(after)._replace(block=place, data=now, is_logged=False)
                yield (
                    f"write {place}",
                    put(moved._replace(fresh=moved.fresh | {place}), (place, now)),
                )
        if state.block:
            yield "empty", drop(after)._replace(block=0, data=0, is_told=False, is_logged=False)

    def record(state: State) -> Iterator[tuple[str, State]]:
        may = state.way == "" or (flaw == "overtaken" and state.way == "blocks")
        may = may and (state.is_ours or flaw == "found log") and state.records < len(state.log)
        if may and not state.is_logged and (state.is_told or flaw == "untold") and state.block:
            told = Record(
                state.generation,
                state.records,
                state.block,
                state.data,
                state.seen if state.is_told else -1,
            )
            after = put(
                state._replace(records=state.records + 1, is_logged=True),
                (state.log[state.records], told),
            )
            after = (
                after if flaw == "in place" else after._replace(fresh=state.fresh - {state.block})
            )
            if flaw == "record early" or state.way:
                yield (
                    "record",
                    (flushed(after) if state.way else after)._replace(
                        promised=state.seen, coming=state.seen
                    ),
                )
            else:
                yield "record", after._replace(way="record", coming=state.seen)

    def seal(state: State) -> Iterator[tuple[str, State]]:
        if state.way or not state.seals:
            return
        after = state._replace(
            fresh=frozenset(),
            waiting=frozenset(),
            flying=state.waiting,
            generation=state.generation + 1,
            is_told=True,
            is_logged=True,
            records=0,
            way="blocks",
            coming=state.seen,
            seals=state.seals - 1,
        )
        ways = [("seal", after)]
        if state.log:
            gone = state.waiting if flaw == "log reused early" else state.waiting | set(state.log)
            ways.append(("seal, give up the log", after._replace(log=(), flying=gone)))
        elif len(free(state)) >= LOG:
            log = tuple(free(state)[-LOG:])
            emptied = [] if flaw == "not emptied" else [(place, EMPTY) for place in log]
            ways.append(("seal, take a log", put(after._replace(log=log), *emptied)))
        for name, way in ways:
            sealed = Super(way.generation, way.block, way.data, way.seen, way.log)
            yield name, way._replace(sealed=sealed, is_ours=bool(way.log))

    def flush(state: State) -> Iterator[tuple[str, State]]:
        if state.way == "record":
            yield (
                "flush the record",
                flushed(state)._replace(way="", promised=max(state.promised, state.coming)),
            )
        if state.way == "blocks" and state.sealed:
            before = state if flaw == "superblock early" else flushed(state)
            yield (
                "flush, superblock",
                put(before, (state.sealed.generation % 2, state.sealed))._replace(
                    way="superblock",
                    promised=state.coming if flaw == "commit early" else state.promised,
                ),
            )
        if state.way == "superblock":
            after = flushed(state)._replace(
                way="", promised=max(state.promised, state.coming), sealed=None, flying=frozenset()
            )
            yield "flush the superblock", after._replace(due=state.due | state.flying)

    def discard(state: State) -> Iterator[tuple[str, State]]:
        if state.due:
            yield "need what is due", state._replace(due=frozenset())
        if state.discarding:
            yield (
                f"discard {state.discarding}",
                put(state._replace(discarding=0), (state.discarding, GARBAGE)),
            )
        elif state.due:
            yield (
                "begin to discard",
                state._replace(due=state.due - {min(state.due)}, discarding=min(state.due)),
            )

    def crash(state: State) -> Iterator[tuple[str, State]]:
        if state.crashes:
            for found in recovered(state.disk, state.pending, flaw):
                if isinstance(found, State):
                    yield (
                        "crash",
                        found._replace(
                            changes=state.changes, seals=state.seals, crashes=state.crashes - 1
                        ),
                    )

    def steps(state: State) -> Iterator[tuple[str, State]]:
        for kind in (change, record, seal, flush, discard, crash):
            yield from kind(state)

    return steps


@lru_cache(maxsize=1 << 16)
def recovered(
    disk: tuple[Any, ...], pending: tuple[tuple[int, Any], ...], flaw: str
) -> frozenset[State | str]:
    """All that a crash may leave, opened again; or why that is not possible."""
    found = {
        tuple(left.get(place, old) for place, old in enumerate(disk))
        for left in outcomes(pending, TORN)
    }
    return frozenset(opened(one, flaw) for one in found)


def opened(disk: tuple[Any, ...], flaw: str) -> State | str:
    newest: Super = max(
        (disk[slot] for slot in SLOTS if isinstance(disk[slot], Super)),
        key=lambda one: one.generation,
    )
    if newest.block and disk[newest.block] != newest.data:
        return f"block {newest.block} of generation {newest.generation} is not what it was"
    block, data, seen, waiting, repeated = newest.block, newest.data, newest.seen, {0}, 0
    for number, place in enumerate(newest.log):
        told = disk[place]
        if isinstance(told, int):
            return "what a user has written is taken for a record"
        if (
            not isinstance(told, Record)
            or told.number != number
            or (told.generation != newest.generation and flaw != "stale")
        ):
            break
        if disk[told.block] != told.data:
            if flaw == "unverified":
                return "a record names what is not there"
            break
        if flaw != "given away":
            waiting.add(block)
        block, data, seen, repeated = told.block, told.data, told.seen, repeated + 1
    return State(
        disk,
        block=block,
        data=data,
        seen=seen,
        waiting=frozenset(waiting - {0}),
        generation=newest.generation,
        log=newest.log,
        is_told=not repeated or flaw == "found log",
        promised=seen,
        coming=seen,
    )


def wrong_with(flaw: str) -> Callable[[State], str | None]:
    def wrong(state: State) -> str | None:
        now = dict(enumerate(state.disk)) | dict(state.pending)
        if state.block and now[state.block] != state.data:
            return (
                f"block {state.block} reads as {now[state.block]!r}, and {state.data} was written"
            )
        for found in recovered(state.disk, state.pending, flaw):
            if isinstance(found, str):
                return f"after a crash {found}"
            if found.seen not in {state.promised, state.coming}:
                return f"a crash shows change {found.seen}, and {state.promised} was promised"
        return None

    return wrong


def run(flaw: str = "") -> int:
    """How many states there are. Raises ``exploring.Wrong``."""
    short = [one._replace(changes=2) for one in BEGINNINGS]
    calm = [one._replace(crashes=0) for one in BEGINNINGS]
    recovered.cache_clear()
    return explore([*short, *calm], steps_with(flaw), wrong_with(flaw))


if __name__ == "__main__":
    print(f"{run():,} states, all right")
    for each, what in FLAWS.items():
        try:
            run(each)
        except Wrong as exc:
            print(f"without a rule, {what}: {exc}")
        else:
            raise SystemExit(f"not caught: {what}")
