"""H3, I11: who has a volume open says so on it; a live holder is respected, a dead one is followed,
and nobody writes what he has lost.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapfs.blocks.checksum import crc32c
from snapfs.blocks.claim import (
    CHECKSUM_OFFSET,
    CLAIM_BYTES,
    CLAIM_PLACE,
    INTERVAL_LEAST,
    INTERVAL_MOST,
    LAYOUT,
    Claim,
)
from snapfs.check import check_volume
from snapfs.copying import open_image
from snapfs.device import ImageDevice, Lock, MemoryDevice, open_device
from snapfs.device.identity import Identity, start_of
from snapfs.device.storage import Storage
from snapfs.errors import CorruptBlock, DeviceError, DeviceFull, VolumeBusy
from snapfs.filesystem.format import format_volume
from snapfs.store.commit import claiming as module
from snapfs.store.commit.claiming import (
    PROMPT,
    RECHECK,
    UNSETTLED,
    Claiming,
    margin,
)
from snapfs.store.commit.recovery import open_volume

HERE = Identity.of_this_process()
STORAGE = Storage(7, 1000)
ELSEWHERE = replace(
    HERE, host="elsewhere", boot=b"another boot 000", pid=4711, command="snapfs mount x y"
)


class Clock:
    """Time that passes when somebody waits, and what else happens then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def device() -> MemoryDevice:
    return MemoryDevice(1 << 20)


def host(
    device: MemoryDevice,
    clock: Clock,
    identity: Identity = HERE,
    storage: Storage = STORAGE,
    interval: float = 5.0,
) -> Claiming:
    return Claiming(device, identity, storage, interval, clock, clock.wait)


def taken(claiming: Claiming) -> Claiming:
    claiming.take(claiming.look())
    return claiming


def on(device: MemoryDevice) -> Claim | None:
    return Claim.decode(bytes(device.data[CLAIM_PLACE : CLAIM_PLACE + CLAIM_BYTES]))


def put(device: MemoryDevice, data: bytes) -> None:
    device.data[CLAIM_PLACE : CLAIM_PLACE + len(data)] = data


# The sector


def a_claim(**more: object) -> Claim:
    claim = Claim(b"n" * 16, 5.0, b"b" * 16, b"m" * 16, 1, 2, 3, 4, (5, 6), "host", "command")
    return replace(claim, **more)  # type: ignore[arg-type]


def test_a_claim_is_read_as_it_was_written() -> None:
    claim = a_claim(sequence=9, renewed_ns=-10, is_open=False, host="wirt-ß", interval=1.25)
    data = claim.encode()
    assert len(data) == CLAIM_BYTES
    assert Claim.decode(data) == claim
    assert Claim.decode(bytes(CLAIM_BYTES)) is None


def test_long_texts_lose_their_end_alone() -> None:
    claim = Claim.decode(a_claim(host="ß" * 100, command="x" * 1000).encode())
    assert claim is not None
    assert claim.host == "ß" * 32 and claim.command == "x" * 192


@pytest.mark.parametrize("place", [9, 40, 200, CHECKSUM_OFFSET])
def test_a_damaged_claim_is_believed(place: int) -> None:
    data = bytearray(a_claim().encode())
    data[place] ^= 1
    with pytest.raises(CorruptBlock):
        Claim.decode(bytes(data))


@given(fields=st.binary(min_size=LAYOUT.size - 8, max_size=LAYOUT.size - 8), is_ours=st.booleans())
def test_a_hostile_claim_makes_a_reader_fail_or_wait_for_long(fields: bytes, is_ours: bool) -> None:
    """Whatever stands there with the right checksum: it is refused, or its texts can be printed and
    its times are bounded.
    """
    body = ((b"snapopen" if is_ours else b"snapfs\0\0") + fields).ljust(CHECKSUM_OFFSET, b"\0")
    data = (body + struct.pack("<I", crc32c(body))).ljust(CLAIM_BYTES, b"\0")
    try:
        claim = Claim.decode(data)
    except CorruptBlock:
        return
    if claim is not None:
        assert (claim.host + claim.command).isprintable()
        assert INTERVAL_LEAST <= claim.interval <= INTERVAL_MOST
        assert claim.renewed(0).given_back(0).encode()
        clock = Clock()
        device = MemoryDevice(1 << 20)
        put(device, data)
        here = host(device, clock)
        here.look()
        assert here._who(claim).isprintable()
        assert clock.now - 1000 <= INTERVAL_MOST + margin(INTERVAL_MOST) + 1


# Taking


def test_a_volume_that_nobody_has_is_waited_for(device: MemoryDevice, clock: Clock) -> None:
    one = taken(host(device, clock))
    one.check()
    assert (claim := on(device)) is not None and claim.is_open
    assert (claim.host, claim.pid, claim.command) == (HERE.host, os.getpid(), HERE.command[:192])
    one.release()
    assert (claim := on(device)) is not None and not claim.is_open
    taken(host(device, clock, ELSEWHERE))
    assert clock.now == 1000


def test_a_live_holder_on_another_host_is_overlooked(device: MemoryDevice, clock: Clock) -> None:
    """H3: who renews is respected, by a line that names host, process and since when."""
    there = taken(host(device, clock, ELSEWHERE))
    clock.meanwhile = there.renew
    with pytest.raises(
        VolumeBusy,
        match=r"in use on host elsewhere by process 4711 \(snapfs mount x y\) since "
        r"20\d\d-\d\d-\d\dT.*Z",
    ):
        host(device, clock).look()
    assert clock.now - 1000 < 5
    there.check()


def test_a_dead_holder_on_another_host_keeps_the_volume(device: MemoryDevice, clock: Clock) -> None:
    taken(host(device, clock, ELSEWHERE, interval=10))
    taken(host(device, clock)).check()
    assert 10 + margin(10) <= clock.now - 1000 <= 10 + margin(10) + 1


def test_a_holder_who_ends_while_he_is_watched_is_waited_for(
    device: MemoryDevice, clock: Clock
) -> None:
    there = taken(host(device, clock, ELSEWHERE))
    clock.meanwhile = there.release
    taken(host(device, clock))
    assert clock.now - 1000 <= 0.5


def test_a_process_of_this_boot_that_has_ended_is_waited_for(
    device: MemoryDevice, clock: Clock
) -> None:
    """What it had locked is locked by us now; or there is no such process any more."""
    taken(host(device, clock))
    taken(host(device, clock))
    device = MemoryDevice(1 << 20)
    gone = replace(HERE, started=HERE.started + 1)  # its number is another's by now
    taken(host(device, clock, gone, Storage(8, 1)))
    taken(host(device, clock))
    assert clock.now == 1000


@pytest.mark.parametrize(
    "other",
    [HERE, replace(HERE, namespace=HERE.namespace + 1, pid=1)],
    ids=["alive", "in another container"],
)
def test_a_process_of_this_boot_that_came_by_another_way_is_overlooked(
    other: Identity, device: MemoryDevice, clock: Clock
) -> None:
    """Locks do not see everything: an image over two mounts of NFS, two ways to one disk."""
    there = taken(host(device, clock, other, Storage(8, 1)))
    clock.meanwhile = there.renew
    with pytest.raises(
        VolumeBusy, match=f"in use on this host by another way by process {other.pid}"
    ):
        host(device, clock).look()


def test_a_boot_that_cannot_be_known_is_taken_for_this_one(
    device: MemoryDevice, clock: Clock
) -> None:
    unknown = replace(HERE, boot=bytes(16))
    taken(host(device, clock, unknown))
    taken(host(device, clock, unknown))
    assert clock.now - 1000 >= 5


def test_a_torn_claim_keeps_the_volume_for_ever(device: MemoryDevice, clock: Clock) -> None:
    taken(host(device, clock, ELSEWHERE))
    put(device, bytes(device.data[CLAIM_PLACE : CLAIM_PLACE + 20]) + b"torn")
    with pytest.raises(CorruptBlock):
        on(device)
    taken(host(device, clock)).check()
    assert 5 < clock.now - 1000 < 8


def test_a_torn_claim_that_is_being_written_is_taken_for_damage(
    device: MemoryDevice, clock: Clock
) -> None:
    there = taken(host(device, clock, ELSEWHERE))
    whole = bytes(device.data[CLAIM_PLACE : CLAIM_PLACE + CLAIM_BYTES])
    put(device, whole[:20] + b"torn")

    def mend() -> None:
        put(device, whole)
        there.renew()

    clock.meanwhile = mend
    with pytest.raises(VolumeBusy, match="elsewhere"):
        host(device, clock).look()


def test_two_who_open_at_once_both_have_it(device: MemoryDevice, clock: Clock) -> None:
    """Both have seen that nobody has it. The first to write finds the other's claim before he
    writes anything else, soon.
    """
    one, two = host(device, clock), host(device, clock, ELSEWHERE)
    seen = one.look(), two.look()
    one.take(seen[0])
    two.take(seen[1])
    clock.wait(RECHECK)
    two.check()
    with pytest.raises(DeviceError, match="taken over"):
        one.check()


def test_who_was_slow_to_take_it_takes_it_from_a_settled_one(
    device: MemoryDevice, clock: Clock
) -> None:
    """Who looked long ago looks again."""
    slow = host(device, clock, ELSEWHERE)
    seen = slow.look()
    clock.wait(PROMPT)
    one = taken(host(device, clock))
    clock.wait(UNSETTLED)
    clock.meanwhile = one.renew
    with pytest.raises(VolumeBusy):
        slow.take(seen)
    one.check()


def test_whose_claim_is_slow_to_arrive_writes_before_the_other_knows(
    device: MemoryDevice, clock: Clock
) -> None:
    """His claim came over that of one who was sure of his: he waits until that one cannot be sure
    any more.
    """
    slow, one = host(device, clock, ELSEWHERE), host(device, clock)
    seen = slow.look()
    write = device.write

    def late(offset: int, data: bytes) -> None:
        device.write = write  # type: ignore[method-assign]
        taken(one)
        clock.now += UNSETTLED
        one.check()
        write(offset, data)

    device.write = late  # type: ignore[method-assign, assignment]
    slow.take(seen)
    slow.check()
    with pytest.raises(DeviceError):
        one.check()


# Keeping


def test_every_write_reads_the_claim(device: MemoryDevice, clock: Clock) -> None:
    """No cost that shows: once the claim is settled nothing is read until it is due."""
    one = taken(host(device, clock))
    clock.wait(UNSETTLED)
    one.check()
    reads = []
    device.read = lambda offset, length: (
        reads.append(offset) or MemoryDevice.read(device, offset, length)
    )  # type: ignore[method-assign, func-returns-value]
    for _ in range(20):
        one.check()
    clock.wait(1)
    one.check()
    assert not reads
    one.renew()
    clock.wait(4.9)
    one.check()
    assert reads == [CLAIM_PLACE]


def test_who_was_stopped_writes_over_who_came_after_him(device: MemoryDevice, clock: Clock) -> None:
    """H3: suspended, or cut off, for longer than the interval: the claim is read before the first
    write, and it is another's.
    """
    one = taken(host(device, clock))
    clock.wait(UNSETTLED)
    one.check()
    taken(host(device, clock, ELSEWHERE))
    for _ in range(2):
        with pytest.raises(
            DeviceError,
            match=r"taken over .* in use on host elsewhere by process 4711.*nothing is written",
        ):
            one.check()
    before = on(device)
    one.release()
    assert on(device) == before  # it is not ours to give back


def test_who_was_stopped_and_is_not_missed_cannot_go_on(device: MemoryDevice, clock: Clock) -> None:
    """Nobody has taken it: he has it still, and looks often until whoever has watched him would
    have come.
    """
    one = taken(host(device, clock))
    clock.wait(60)
    one.check()
    assert (claim := on(device)) is not None and claim.sequence == 2
    there = host(device, clock, ELSEWHERE)
    there._page.write(a_claim(boot=ELSEWHERE.boot).encode())  # who had watched until then
    clock.wait(RECHECK)
    with pytest.raises(DeviceError, match="taken over"):
        one.check()


def test_a_claim_that_was_given_back_by_another_is_written_on(
    device: MemoryDevice, clock: Clock
) -> None:
    one = taken(host(device, clock))
    clock.wait(20)
    there = taken(host(device, clock, ELSEWHERE))
    there.check()
    there.release()
    with pytest.raises(DeviceError, match="was opened on host elsewhere"):
        one.check()


def test_a_full_host_ends_writing(device: MemoryDevice, clock: Clock) -> None:
    """A claim that cannot be renewed for lack of space is looked at before each write instead."""
    one = taken(host(device, clock))

    def full(offset: int, data: bytes) -> None:
        raise DeviceFull("no space")

    device.write = full  # type: ignore[method-assign, assignment]
    for _ in range(3):
        clock.wait(6)
        one.check()
    put(device, a_claim().encode())
    clock.wait(RECHECK)
    with pytest.raises(DeviceError, match="taken over"):
        one.check()


def test_a_claim_that_cannot_be_read_is_taken_for_granted(
    device: MemoryDevice, clock: Clock
) -> None:
    one = taken(host(device, clock))

    def broken(offset: int, length: int) -> bytes:
        raise DeviceError("cannot be read")

    device.read = broken  # type: ignore[method-assign, assignment]
    clock.wait(6)
    with pytest.raises(DeviceError, match="cannot be read"):
        one.check()
    del device.read  # type: ignore[attr-defined]
    one.check()


# Files


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, 4 << 20)
    device = open_device(str(path))
    format_volume(device)
    device.close()
    return path


def claim_of(path: Path) -> Claim | None:
    with path.open("rb") as file:
        file.seek(CLAIM_PLACE)
        return Claim.decode(file.read(CLAIM_BYTES))


def test_an_image_that_is_written_has_no_claim(image: Path) -> None:
    device = open_image(str(image), read_only=False)
    assert (claim := claim_of(image)) is not None and claim.is_open
    assert claim.storage == (os.stat(image).st_dev, os.stat(image).st_ino)
    assert check_volume(device) == []
    device.write(8 * 4096, device.read(8 * 4096, 4096))
    device.close()
    assert (claim := claim_of(image)) is not None and not claim.is_open


def test_an_image_that_was_only_opened_is_changed(image: Path) -> None:
    """By whatever looks whether it can be written, and then does not."""
    before = image.read_bytes()
    open_image(str(image), read_only=False).close()
    assert image.read_bytes() == before
    device = open_image(str(image), read_only=False)
    assert isinstance(device, ImageDevice)
    guard, device.guard = device.guard, None  # as if it were killed
    assert isinstance(guard, Claiming)
    guard._ended.set()
    device.close()
    open_image(str(image), read_only=False).close()
    assert image.read_bytes() == before


@pytest.mark.parametrize("half", ["old claim", "zeros", "an old superblock"])
def test_a_crash_in_a_renewal_costs_anything(half: str, image: Path, clock: Clock) -> None:
    """I8: any part of the new claim over what was there: the volume is clean, and opened at once or
    after one interval.
    """
    content = image.read_bytes()
    volume = MemoryDevice(len(content))
    volume.data[:] = content
    old = {
        "old claim": a_claim().encode(),
        "zeros": bytes(CLAIM_BYTES),
        "an old superblock": content[4096:8192],
    }[half]
    for length in range(0, 513, 32):
        put(
            volume,
            a_claim(nonce=b"o" * 16, sequence=2, renewed_ns=1 << 50).encode()[:length]
            + old[length:],
        )
        assert check_volume(volume) == []
        assert open_volume(volume).generation == 1
        before = clock.now
        taken(host(volume, clock)).release()
        assert clock.now - before <= 5 + margin(5) + 1
        assert check_volume(volume) == []


def test_reading_claims(image: Path) -> None:
    before = image.read_bytes()
    open_image(str(image), read_only=True).close()
    open_image(str(image), read_only=False, interval=None).close()
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    "content", [bytes(4 << 20), b"snapopen is a word" * (1 << 18)], ids=["zeros", "something else"]
)
def test_what_is_no_volume_is_written(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    open_image(str(path), read_only=False).close()
    assert path.read_bytes() == content


def test_a_device_that_was_taken_is_written(image: Path) -> None:
    """Every write of the device asks, and whoever serves the volume can see it."""
    device = open_image(str(image), read_only=False, interval=1.0)
    assert device.taken is None
    other = open_device(str(image), lock=Lock.NONE)
    stranger = Claiming(other, ELSEWHERE, STORAGE, 5.0)
    stranger.take(time.clock_gettime(time.CLOCK_BOOTTIME))
    before = image.read_bytes()

    def written() -> bool:
        try:
            device.write(0, bytes(512))
        except DeviceError:
            return False
        return True

    assert isinstance(device.guard, Claiming)  # type: ignore[attr-defined]
    device.guard.renew()  # type: ignore[attr-defined]
    assert not written()
    with pytest.raises(DeviceError, match="taken over"):
        device.discard(0, 4096)
    assert device.taken is not None
    device.close()
    assert image.read_bytes() == before
    stranger.release()
    other.close()


def test_the_thread_that_renews_does_not(image: Path, wait_until: Callable[..., None]) -> None:
    device = open_image(str(image), read_only=False, interval=1.0)
    first = claim_of(image)
    wait_until(lambda: claim_of(image) != first, what="a renewal")
    renewed = claim_of(image)
    assert first is not None and renewed is not None
    assert (
        renewed.nonce == first.nonce
        and renewed.sequence > first.sequence
        and renewed.since_ns == first.since_ns
    )
    device.close()


def test_an_image_on_a_full_host_cannot_be_opened(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting is what helps then: the volume is opened without a claim."""

    def full(*_: object) -> None:
        raise DeviceFull("no space")

    monkeypatch.setattr(module.Page, "write", full)
    device = open_image(str(image), read_only=False)
    assert device.guard is None  # type: ignore[attr-defined]
    open_volume(device).close()
    device.close()


def test_a_superblock_of_an_older_snapfs_is_lost(image: Path) -> None:
    """One that knew of no claims has put the newest superblock where the claim is."""
    data = bytearray(image.read_bytes())
    front, tail = open_volume(
        open_device(str(image), read_only=True, lock=Lock.NONE)
    ).geometry.slot_offsets()
    for ring in (front, tail):
        newest = data[ring[1] : ring[1] + 4096]
        data[ring[1] : ring[1] + 4096] = bytes(4096)
        data[ring[7] : ring[7] + 4096] = newest
    data[tail[7] : tail[7] + 4096] = bytes(4096)  # and it is nowhere else
    image.write_bytes(data)
    for _ in range(2):
        device = open_image(str(image), read_only=False)
        assert (claim := claim_of(image)) is not None and claim.is_open
        assert open_volume(device).generation == 1
        device.close()
        assert open_volume(open_device(str(image), lock=Lock.NONE)).generation == 1


def test_a_process_that_has_ended_is_alive() -> None:
    assert start_of(os.getpid()) == HERE.started
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert start_of(child) is None  # it waits for us
    os.waitpid(child, 0)
    assert start_of(child) is None
