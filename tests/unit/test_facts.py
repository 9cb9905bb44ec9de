"""What is said about snapshots: bounded, validated, in a block of the table, and obeyed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from snapfs import snapshots
from snapfs.blocks.geometry import BLOCK_SIZES
from snapfs.check import check_volume
from snapfs.errors import (
    CorruptBlock,
    NameTaken,
    NoSuchFact,
    NotPermitted,
    ReadOnly,
    SnapshotHeld,
    UsageError,
)
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import INO_LIMIT, MAX_INSTANCES, ROOT_INO
from snapfs.snapshots import NO_FACTS, Facts, Hold
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.tables.facts import (
    DESCRIPTION_MAX,
    HOLD_NAME_MAX,
    HOLDS_MAX,
    REASON_MAX,
    TAGS_BYTES_MAX,
    TAGS_MAX,
)
from snapfs.store.tables.instances import (
    FACTS_KEY,
    Instance,
    ViewRoot,
)
from snapfs.store.tables.parts import (
    INODES_MAX,
    NAMES_MAX,
    PARTS_MAX,
    WAY_MAX,
    Part,
    check_bounds,
    kept_by,
)
from snapfs.store.trees.bucket import MAP_HEADER, item_size
from tests.harness.sparse import SparseDevice

FILE = 0o100644
LATE = (1 << 63) - 1

LARGEST = Facts(
    True,
    "d" * DESCRIPTION_MAX,
    {f"{number:016}": "v" * (TAGS_BYTES_MAX // TAGS_MAX - 16) for number in range(TAGS_MAX)},
    tuple(
        Hold(f"{number:0{HOLD_NAME_MAX}}", "r" * REASON_MAX, LATE, 0xFFFF_FFFF)
        for number in range(HOLDS_MAX)
    ),
)


@pytest.fixture
def fs() -> Iterator[Filesystem]:
    device = SparseDevice(1024 * 4096)
    format_volume(device)
    fs = Filesystem(open_volume(device))
    yield fs
    commit(fs.volume)
    assert not check_volume(device)


def make(fs: Filesystem, name: str, **options: Any) -> Instance:
    instance: Instance = drive(fs.volume, snapshots.create, fs, name, **options)
    commit(fs.volume)
    return instance


def say(fs: Filesystem, name: str, change: Any, **options: Any) -> None:
    drive(fs.volume, snapshots.change_facts, fs, name, change, **options)


def opened(fs: Filesystem) -> Filesystem:
    """As the next mount finds it after a crash now."""
    return Filesystem(open_volume(fs.volume.device))


# --- bounds -------------------------------------------------------------------------------------


def test_the_largest_instance_does_not_fit_a_block() -> None:
    """An instance and its facts are one item each, and the smallest block takes either."""
    room = min(BLOCK_SIZES) - 4 - MAP_HEADER
    root = ViewRoot(*[(1 << 64) - 1] * 2, 255, *[1 << 62] * 4)
    many = [Part(INO_LIMIT, (INO_LIMIT,), (b"n" * 5,))] * (PARTS_MAX - 1)
    deep = INODES_MAX - len(many)
    rest = WAY_MAX - 5 * len(many)
    long = Part(INO_LIMIT, (INO_LIMIT,) * deep, (b"n" * (rest - deep + 1), *[b"n"] * (deep - 1)))
    assert len(long.way) + len(many) == NAMES_MAX
    elsewhere = Part(0, (), (b"n" * (rest - 64), *[b"n"] * 64))
    few = [*many, elsewhere]
    kept = (INO_LIMIT,) * (INODES_MAX - len(many)), ()
    for parts, (covered, passed) in (
        ([*many, long], kept_by([*many, long])),
        (few, kept),
        ([long], kept_by([long])),
    ):
        check_bounds(parts, (covered, passed))
        instance = Instance(
            MAX_INSTANCES, "n" * 255, 0xFFFF_FFFF, LATE, LATE, MAX_INSTANCES, 0xFFFF_FFFF,
            tuple(parts), covered, passed, True, True, root, LARGEST,
        )  # fmt: skip
        assert item_size(instance.id, instance.encode()) <= room
    assert LARGEST.fault is None
    assert item_size(MAX_INSTANCES | FACTS_KEY, LARGEST.encode()) <= room


@pytest.mark.parametrize(
    "facts",
    [NO_FACTS, LARGEST, Facts(tags={"ключ": ""}, holds=(Hold("h"),)), Facts(description="ü" * 256)],
)
def test_facts_are_not_what_they_were_when_they_are_read(facts: Facts) -> None:
    assert Facts.decode(facts.encode(), "facts") == facts


def test_facts_of_an_older_volume_cannot_be_read() -> None:
    """A field that is missing has its default."""
    assert Facts.decode({}, "facts") == NO_FACTS
    assert Facts.decode({"read_only": True, "later": 1}, "facts") == Facts(read_only=True)


@pytest.mark.parametrize(
    "value",
    [
        None, [], {"read_only": 1}, {"description": b"x"}, {"description": "d" * 513},
        {"description": "a\nb"}, {"tags": []},
        {"tags": {"k": 1}}, {"tags": {1: "v"}}, {"tags": {"": "v"}}, {"tags": {"a=b": "v"}},
        {"tags": {"k": "v" * 512}},
        {"tags": {str(number): "" for number in range(17)}}, {"holds": {}}, {"holds": ["h"]},
        {"holds": [["h", "", 0]]},
        {"holds": [["", "", 0, 0]]}, {"holds": [["h" * 65, "", 0, 0]]}, {"holds": [["h", "r" * 129,
        0, 0]]}, {"holds": [["h", "", 0.5, 0]]},
        {"holds": [["h", "", 0, -1]]}, {"holds": [["h", "", 0, 0]] * 2}, {"holds": [[str(n), "", 0,
        0] for n in range(9)]},
    ],
)  # fmt: skip
def test_facts_that_cannot_be_are_believed(value: object) -> None:
    """Nothing of a volume is believed before it has been checked."""
    with pytest.raises(CorruptBlock):
        Facts.decode(value, "facts")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"description": "d" * 513}, "a description has at most 512 bytes, this one has 513"),
        ({"description": "a\tb"}, "control characters"),
        ({"description": "\udcff"}, "UTF-8"),
        (
            {"tags": {"k": "ü" * 256}},
            "tags of a snapshot have at most 512 bytes together, these have 513",
        ),
        ({"tags": {str(number): "" for number in range(17)}}, "at most 16 tags, these are 17"),
        ({"tags": {"": "v"}}, "a tag's key"),
    ],
)
def test_too_much_is_said_about_a_snapshot(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        NO_FACTS.changed(**changes)


def test_holds_lose_each_other() -> None:
    """Each of several holds keeps the snapshot, and each is released by its name alone."""
    facts = NO_FACTS.hold(Hold("a")).hold(Hold("b", "tape"))
    with pytest.raises(NameTaken):
        facts.hold(Hold("a"))
    with pytest.raises(NoSuchFact, match="'a', 'b'"):
        facts.release("c")
    assert [hold.name for hold in facts.release("a").holds] == ["b"]
    for number in range(HOLDS_MAX - 2):
        facts = facts.hold(Hold(str(number)))
    with pytest.raises(UsageError, match="at most 8 holds"):
        facts.hold(Hold("more"))
    for hold, words in (
        (Hold(""), "empty"),
        (Hold("x" * 65), "64"),
        (Hold("x", "r" * 129), "128"),
        (Hold("a\nb"), "control"),
    ):
        with pytest.raises(UsageError, match=words):
            NO_FACTS.hold(hold)


def test_a_tag_is_set_or_removed_by_mistake() -> None:
    facts = NO_FACTS.changed(tags={"b": "2", "a": "1"})
    assert list(facts.tags) == ["a", "b"]
    assert facts.changed(tags={"a": "3"}, untag=["b"]).tags == {"a": "3"}
    assert facts.changed(description="x").tags == facts.tags
    with pytest.raises(NoSuchFact, match="'c'"):
        facts.changed(untag=["c"])


# --- on a volume --------------------------------------------------------------------------------


def test_facts_are_lost_with_a_crash(fs: Filesystem) -> None:
    """I8: what is said is durable with the commit after it, also when it is taken back, and gone
    with the snapshot.
    """
    make(fs, "one", facts=LARGEST)
    make(fs, "two")
    assert {one.name: one.facts for one in snapshots.all(opened(fs))} == {
        "one": LARGEST,
        "two": NO_FACTS,
    }
    say(fs, "one", lambda _: NO_FACTS)
    say(fs, "two", lambda facts: facts.hold(Hold("h", "why", 5, 7)))
    assert {one.name: one.facts for one in snapshots.all(opened(fs))} == {
        "one": LARGEST,
        "two": NO_FACTS,
    }
    commit(fs.volume)
    assert {one.name: one.facts for one in snapshots.all(opened(fs))} == {
        "one": NO_FACTS,
        "two": Facts(holds=(Hold("h", "why", 5, 7),)),
    }
    say(fs, "two", lambda _: LARGEST.release(LARGEST.holds[0].name))
    say(fs, "one", lambda _: Facts(description="to be deleted"))
    drive(fs.volume, snapshots.delete, fs, "one")
    while drive(fs.volume, fs.work):
        pass
    commit(fs.volume)
    assert [one.name for one in snapshots.all(opened(fs))] == ["two"]


def test_facts_go_on_to_the_next_snapshot_of_that_id(fs: Filesystem) -> None:
    """A4: an id is used again; what was said about its first owner is not."""
    number = make(fs, "one", facts=Facts(True, "of the first")).id
    drive(fs.volume, snapshots.delete, fs, "one")
    while drive(fs.volume, fs.work):
        pass
    commit(fs.volume)
    assert make(fs, "two").id == number
    assert snapshots.get(opened(fs), "two").facts == NO_FACTS


def test_facts_without_their_snapshot_are_believed(fs: Filesystem) -> None:
    make(fs, "one")
    fs.volume.instances_tree.touch(77 | FACTS_KEY)
    fs.volume.instances_tree.put(77 | FACTS_KEY, NO_FACTS.encode())
    fs.volume.instances.dirty.add(1)
    commit(fs.volume)
    with pytest.raises(CorruptBlock, match="65613"):
        opened(fs)
    assert any("65613" in finding.message() for finding in check_volume(fs.volume.device))
    fs.volume.instances_tree.touch(77 | FACTS_KEY)
    fs.volume.instances_tree.pop(77 | FACTS_KEY)
    fs.volume.instances.dirty.add(1)


def test_a_held_snapshot_is_deleted(fs: Filesystem) -> None:
    """Nobody deletes it, by whatever right; renaming and changing it go on."""
    make(fs, "one")
    say(fs, "one", lambda facts: facts.hold(Hold("tape", "being written")))
    with pytest.raises(SnapshotHeld, match=r"tape.*being written"):
        drive(fs.volume, snapshots.delete, fs, "one")
    drive(fs.volume, snapshots.rename, fs, "one", "two")
    with pytest.raises(SnapshotHeld):
        drive(fs.volume, snapshots.delete, fs, "two")
    drive(fs.volume, fs.make, fs.view(1), ROOT_INO, b"new", FILE, 0, 0)
    say(fs, "two", lambda facts: facts.release("tape"))
    drive(fs.volume, snapshots.delete, fs, "two")


def test_others_say_something_about_my_snapshot(fs: Filesystem) -> None:
    """Who may not delete it may neither hold nor release it."""
    make(fs, "one")
    for uid, allowed in ((1000, False), (0, True)):
        try:
            say(
                fs,
                "one",
                lambda facts: facts.hold(Hold("mine")),
                permit=snapshots.owner_or_root(uid),
            )
        except NotPermitted:
            assert not allowed
        else:
            assert allowed


def test_a_snapshot_counts_as_changed_when_it_was_not(fs: Filesystem) -> None:
    """Changed means that something was written into the view: not that the base was, nor that
    something was said.
    """
    fs.now = lambda: 1_000  # a clock that stands still
    ino = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"f", FILE, 0, 0).ino
    one = make(fs, "one", now_ns=1_000)
    two = make(fs, "two", origin=one.id, now_ns=1_000)
    drive(fs.volume, fs.write, fs.base, ino, 0, b"base")
    say(fs, "one", lambda facts: facts.changed(description="x"))
    drive(fs.volume, fs.read, fs.view(one.id), ino, 0, 10)
    drive(fs.volume, snapshots.rename, fs, "two", "three")
    commit(fs.volume)
    assert (one.changed, two.changed) == (False, False)
    drive(fs.volume, fs.write, fs.view(two.id), ino, 0, b"view")
    commit(fs.volume)
    assert (one.changed, two.changed, snapshots.get(opened(fs), "three").changed) == (
        False,
        True,
        True,
    )
    assert not make(fs, "four", origin=two.id, now_ns=2_000).changed


def test_a_read_only_snapshot_cannot_be_restored_copied_or_deleted(fs: Filesystem) -> None:
    """Read-only is what the view shows. It can be made writable again, and a snapshot of it is."""
    ino = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"f", FILE, 0, 0).ino
    one = make(fs, "one", facts=Facts(read_only=True))
    drive(fs.volume, fs.write, fs.base, ino, 0, b"later")
    copy = make(fs, "copy", origin=one.id)
    drive(fs.volume, fs.write, fs.view(copy.id), ino, 0, b"copied")
    with pytest.raises(ReadOnly, match="--writable"):
        drive(fs.volume, fs.write, fs.view(one.id), ino, 0, b"x")
    say(fs, "one", lambda facts: facts.changed(read_only=False))
    drive(fs.volume, fs.write, fs.view(one.id), ino, 0, b"x")
    say(fs, "one", lambda facts: facts.changed(read_only=True))
    commit(fs.volume)
    assert drive(fs.volume, snapshots.restore, fs, "one").changed
    assert drive(fs.volume, fs.read, fs.base, ino, 0, 10) == b"x"
    drive(fs.volume, snapshots.delete, fs, "one")


def test_an_orphan_of_a_read_only_view_is_never_freed(fs: Filesystem) -> None:
    """A file that was deleted before, while somebody used it, gives its space back all the same."""
    ino = drive(fs.volume, fs.make, fs.base, ROOT_INO, b"f", FILE, 0, 0).ino
    drive(fs.volume, fs.write, fs.base, ino, 0, b"x" * 100_000)
    view = fs.view(make(fs, "one").id)
    fs.hold(view, ino)
    drive(fs.volume, fs.unlink, view, ROOT_INO, b"f")
    say(fs, "one", lambda facts: facts.changed(read_only=True))
    commit(fs.volume)
    fs.forget(view, ino)
    while drive(fs.volume, fs.work):
        pass
    assert not view.orphans
    commit(fs.volume)
