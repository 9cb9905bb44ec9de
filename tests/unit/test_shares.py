"""Who may write to a directory cannot keep others from making snapshots: ids, places in a policy's
snapshot, and pace.
"""

from __future__ import annotations

import pytest

from snapfs import snapshots
from snapfs.errors import NotFound, SnapshotBusy, TooManySnapshots, UsageError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.designation import NAME
from snapfs.filesystem.format import format_volume
from snapfs.fuse.driving.allowance import (
    AT_ONCE,
    SECONDS,
    Allowance,
)
from snapfs.ids import MAX_INSTANCES, ROOT_INO
from snapfs.snapshots import Designated, Instance, shares
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from tests.harness.sparse import SparseDevice

MOUNTER = 1000


@pytest.fixture
def fs() -> Filesystem:
    device = SparseDevice(4096 * 4096)
    format_volume(device)
    made = Filesystem(open_volume(device))
    made.privileged = {0, MOUNTER}
    return made


def designated(
    fs: Filesystem, owner: int, count: int, policy: bytes = b"nightly", parent: int = ROOT_INO
) -> list[int]:
    found = []
    for number in range(count):
        ino = drive(
            fs.volume, fs.make, fs.base, parent, b"%d-%d" % (owner, number), 0o040755, owner, 0
        ).ino
        drive(fs.volume, fs.xattr_set, fs.base, ino, NAME, policy)
        found.append(ino)
    commit(fs.volume)
    return found


def covered(fs: Filesystem, target: Designated) -> set[int]:
    instance = drive(fs.volume, snapshots.create, fs, f"s{fs.volume.epoch}", targets=[target])
    commit(fs.volume)
    return {part.ino for part in instance.parts}


def test_others_fill_the_snapshots_of_a_policy(fs: Filesystem) -> None:
    """C8: what is root's and the mounter's is in it, and of the others each one's share; what is
    left out is told.
    """
    first, second = designated(fs, 1, 130), designated(fs, 2, 3)
    own = designated(fs, 0, 2) + designated(fs, MOUNTER, 2)
    target = Designated("nightly")
    found = covered(fs, target)
    assert found >= {*own, *second}
    assert len(found) > 40
    assert {
        fs.lookup(fs.base, ROOT_INO, path.lstrip("/").encode()).ino for path in target.left_out
    } == {*first} - found
    target = Designated("nightly", 2)
    assert covered(fs, target) == {*second}
    assert target.left_out == []
    with pytest.raises(NotFound, match="of user 3"):
        covered(fs, Designated("nightly", 3))


def test_what_comes_first_is_left_out_in_silence(fs: Filesystem) -> None:
    designated(fs, 0, 130)
    with pytest.raises(UsageError, match="128"):
        covered(fs, Designated("nightly"))


def test_who_comes_in_turn_does_not_come() -> None:
    def fits(some: list[int]) -> bool:
        return sum(some) <= 10

    assert shares.fair_choice([[1, 2], [3]], fits) == ([1, 3, 2], [])
    assert shares.fair_choice([[5, 5, 5], [4], [1]], fits) == ([5, 4, 1], [5, 5])
    assert shares.fair_choice([], fits) == ([], [])


def test_one_user_takes_all_ids(fs: Filesystem) -> None:
    instances = fs.volume.instances

    def have(owner: int) -> int:
        """Make instances, of which nothing else is looked at, until the owner may have no more."""
        with pytest.raises(TooManySnapshots):
            while True:
                shares.check_share(fs, owner)
                number = len(instances.table) + 1
                instances.table[number] = Instance(number, str(number), owner=owner)
                if number % 500:  # a check looks at all
                    for more in range(number + 1, number // 500 * 500 + 500):
                        instances.table[more] = Instance(more, str(more), owner=owner)
        return sum(one.owner == owner for one in instances.table.values())

    first, second = have(1), have(2)
    assert first > MAX_INSTANCES * 2 // 5
    assert second > MAX_INSTANCES // 6
    assert len(instances.table) < MAX_INSTANCES - shares.RESERVE
    shares.check_share(fs, 3)
    for owner in (0, MOUNTER):
        shares.check_share(fs, owner)
    fs.privileged = None
    shares.check_share(fs, 1)


def test_a_user_makes_thousands_of_snapshots_in_a_minute() -> None:
    now = [50.0]
    allowance = Allowance(lambda: now[0])
    for _ in range(AT_ONCE):
        allowance.take(1)
    with pytest.raises(SnapshotBusy, match="user 1"):
        allowance.take(1)
    allowance.take(2)
    for _ in range(3):
        now[0] += SECONDS
        allowance.take(1)
        with pytest.raises(SnapshotBusy):
            allowance.take(1)
    now[0] += AT_ONCE * SECONDS
    for _ in range(AT_ONCE):
        allowance.take(1)
