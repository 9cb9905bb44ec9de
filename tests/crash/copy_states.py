"""Run the crash states of stories of copies: recover, judge source and target, go on to the end,
and judge both again.
"""

from __future__ import annotations

import contextlib
import functools
import random
import stat
from dataclasses import dataclass, field

from snapfs.blocks.copy_mark import FILLING, OWN
from snapfs.check import check_volume
from snapfs.copying import attach, detach, unregister
from snapfs.copying.job import COMPLETE, CopyJob
from snapfs.copying.opening import open_unfinished, read_mark
from snapfs.copying.unfinished import refuse
from snapfs.errors import CorruptBlock, NoSpace, NotAVolume, SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.ids import ROOT_INO
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.volume import Volume
from tests.crash.copy_stage import (
    ACKNOWLEDGED,
    BLOCK,
    COMPLETED,
    FAILED,
    FAILING,
    FINISHING,
    MARKED,
    TARGET,
    CopyStage,
    Expected,
    standing,
)
from tests.crash.copy_stories import STORIES
from tests.crash.oracle import Oracle
from tests.crash.timeline import State, equal_but
from tests.harness.effort import stratified
from tests.harness.sparse import SparseDevice, WatchedDevice, is_alike

#: Where a mark is, in a target, or was, and who has it open.
MARKS = list(OWN)


def tell(name: str, seed: int) -> CopyStage:
    """Play a story from beginning to end, recorded. The same seed tells the same story, to the
    block.
    """
    story, blocks, outside = STORIES[name]
    stage = CopyStage(blocks, seed, outside=outside)
    with standing(stage.devices):
        story(stage)
    return stage


@dataclass(frozen=True)
class Claim:
    """What must be so after a crash before an event."""

    oracle: Oracle
    promised: int
    newest: int
    phase: str | None
    expected: Expected | None

    @classmethod
    def at(cls, stage: CopyStage, point: int) -> Claim:
        """By what was noted until then, since the last crash."""
        begin, oracle = max((era for era in stage.eras if era[0] < point), key=lambda era: era[0])
        told = [
            (what, value) for position, what, value in stage.timeline.notes if position <= point
        ]
        since = [
            value
            for position, what, value in stage.timeline.notes
            if begin < position <= point and what == "promise"
        ]
        phase, number = next(
            (value for what, value in reversed(told) if what == "phase"), (None, -1)
        )
        return cls(
            oracle,
            max(since, default=0),
            max(oracle.generations),
            phase,
            stage.expected[number] if number >= 0 else None,
        )


@dataclass
class Recoveries:
    """The recoveries under one claim that went well, as ``oracle.Recoveries``: what each of them
    has read of each device.
    """

    seen: list[list[dict[int, bytes]]] = field(default_factory=list)

    def judge(self, claim: Claim, left: list[SparseDevice], source_path: str) -> None:
        """Raises ``AssertionError``, or what recovery raises."""
        source = next(device for device in left if device.path == source_path)
        claim.oracle.look(source, (claim.promised, 0), claim.newest)
        if any(all(map(is_alike, seen, left)) for seen in reversed(self.seen)):
            return
        watched = [WatchedDevice(device) for device in left]
        go_on(claim, {device.path: device for device in watched}, source_path)
        self.seen.append([device.seen for device in watched])


def go_on(claim: Claim, devices: dict[str, SparseDevice], source_path: str) -> None:
    """Recover and go on to the end. That the source shows what it should has been judged before."""
    source, target = devices[source_path], devices[TARGET]
    with standing(devices):
        volume = open_volume(source)
        if claim.phase == ACKNOWLEDGED and claim.expected is not None:
            shows(claim.expected, target)  # before anybody goes on with it
        job = attach(volume)
        if job is not None:
            assert claim.expected is not None and claim.phase not in {COMPLETED, FAILED}, (
                f"a copy goes on that has ended: {claim.phase}"
            )
            shows(claim.expected, target)
        else:
            assert claim.phase != ACKNOWLEDGED, "a copy that was acknowledged is forgotten"
            assert volume.copies.current is None
        fs = Filesystem(volume)
        live(fs, job)
        if job is not None:
            end(volume, job)
        found = check_volume(source)
        assert not found, [one.message() for one in found][:5]
        if claim.expected is None:
            return
        if (
            job is not None
            or claim.phase == COMPLETED
            or (claim.phase == FINISHING and read_mark(target) is None)
        ):
            is_whole(claim.expected, target)
        else:
            is_refused(claim, target)


def shows(expected: Expected, target: SparseDevice) -> None:
    """Opened while it is filled, the target is the point in time, whatever the source has by now
    (D1).
    """
    mark = read_mark(target)
    assert mark is not None and mark.state == FILLING, mark
    copy = open_unfinished(target, mark)
    seen = bytearray(copy.read(0, copy.size))
    for start, end in MARKS:
        seen[start:end] = bytes(end - start)
    same(expected, seen, "the copy, read while it is filled,")
    assert open_volume(copy, read_only=True).generation == expected.generation


def same(expected: Expected, seen: bytes | bytearray, what: str) -> None:
    if not equal_but(seen, expected.image, expected.needed):
        wrong = [
            at // BLOCK
            for start, end in expected.needed
            for at in range(start, end, BLOCK)
            if seen[at : at + BLOCK] != expected.image[at : at + BLOCK]
        ]
        raise AssertionError(f"{what} differs in blocks {wrong[:10]}")


def is_whole(expected: Expected, target: SparseDevice) -> None:
    """The target alone is the point in time, to the byte (D4)."""
    assert read_mark(target) is None
    same(expected, target.image(), "the complete copy")
    assert open_volume(target).generation == expected.generation


def is_refused(claim: Claim, target: SparseDevice) -> None:
    """Nobody takes what is there for a volume, or for a point in time."""
    assert claim.expected is not None
    try:
        mark = read_mark(target)
    except CorruptBlock:
        return
    if mark is None:
        assert claim.phase not in {MARKED, FAILING, FAILED}, (
            f"no mark says that the copy has {claim.phase}"
        )
        assert target.image() == claim.expected.before or not opens(target), (
            "what is not a volume is taken for one"
        )
        return
    if mark.generation != claim.expected.generation and claim.phase not in {
        MARKED,
        FAILING,
        FAILED,
    }:
        return  # the one that was made before is still there
    with contextlib.suppress(SnapfsError):
        refuse(TARGET, mark)
        open_unfinished(target, mark)
        raise AssertionError("a copy that has failed is taken for a point in time")


def opens(target: SparseDevice) -> bool:
    try:
        open_volume(target)
    except NotAVolume:
        return False
    return True


def live(fs: Filesystem, job: CopyJob | None) -> None:
    """The volume goes on: what was interrupted is worked off, blocks are used again, and the copy
    gets ahead now and then.
    """
    volume = fs.volume
    for number in range(3):
        drive(volume, fs.work)
        with contextlib.suppress(NoSpace):
            inode = drive(
                volume,
                fs.make,
                fs.base,
                ROOT_INO,
                b"after the crash %d" % number,
                stat.S_IFREG | 0o600,
                0,
                0,
            )
            drive(volume, fs.write, fs.base, inode.ino, 0, b"%d" % number * 40_000)
        commit(volume)
        if job is not None:
            job.step(4 * BLOCK)


def end(volume: Volume, job: CopyJob) -> None:
    while not job.copy.complete:
        if not job.step():
            job.settle()
        assert job.before.failed is None, job.before.failed
    job.finish()
    drive(volume, unregister, volume)
    commit(volume)
    detach(volume)
    job.close(COMPLETE)


def replay(identity: str) -> None:
    """Judge one state, by what a failure said: ``NAME:SEED:POINT:ARRIVED:TORN``."""
    name, seed, text = identity.split(":", 2)
    stage, state = tell(name, int(seed)), State.parse(text)
    (moment,) = stage.timeline.moments([state.point])
    Recoveries().judge(
        Claim.at(stage, state.point), stage.timeline.build(state, moment), stage.source_path
    )


@dataclass
class Run:
    """States judged; those that leave the same bytes and the same claim count once."""

    seen: set[int] = field(default_factory=set)
    recoveries: int = 0
    told: int = 0
    copied_before: int = 0

    @property
    def distinct(self) -> int:
        return len(self.seen)

    def story(
        self,
        name: str,
        seed: int,
        samples: int = 4,
        limit: int | None = None,
        *,
        phase: str | None = None,
    ) -> None:
        """Judge the states of a story, at most ``limit`` of them; those in a ``phase`` alone. A
        failure says how to replay it.
        """
        stage = tell(name, seed)
        self.told += 1
        self.copied_before += stage.copied_before
        rng = random.Random(seed)
        phase_at = functools.cache(lambda point: Claim.at(stage, point).phase)
        every = [
            state
            for state in stage.timeline.states(rng, samples)
            if phase is None or phase == phase_at(state.point)
        ]
        if limit is not None:
            every = stratified(
                every,
                lambda state: (phase_at(state.point), stage.timeline.kind(state)),
                limit,
                rng,
            )
        by_point: dict[int, list[State]] = {}
        for state in every:
            by_point.setdefault(state.point, []).append(state)
        claims: dict[object, Recoveries] = {}
        for moment in stage.timeline.moments(by_point):
            claim = Claim.at(stage, moment.point)
            told = name, seed, claim.promised, claim.newest, claim.phase
            known = claims.setdefault((id(claim.oracle), id(claim.expected), told), Recoveries())
            for state in by_point[moment.point]:
                left = stage.timeline.build(state, moment)
                digest = hash((told, *(frozenset(device.pages.items()) for device in left)))
                if digest in self.seen:
                    continue
                try:
                    known.judge(claim, left, stage.source_path)
                except Exception as exc:
                    raise AssertionError(
                        "replay alone with: python -m tests.crash.replay "
                        f"{name}:{seed}:{state}\n{type(exc).__name__}: {exc}"
                    ) from exc
                self.seen.add(digest)
        self.recoveries += sum(len(known.seen) for known in claims.values())


def run(name: str, seed: int, samples: int = 4, limit: int | None = None) -> int:
    """Judge the states of one telling of a story; how many distinct ones there were."""
    all_of_them = Run()
    all_of_them.story(name, seed, samples, limit)
    return all_of_them.distinct
