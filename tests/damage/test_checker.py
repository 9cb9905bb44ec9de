"""The checker finds what is planted: each rule alone, at its place, and nothing that does not
follow from it (I1 to I4, I7, I8).
"""

from __future__ import annotations

import ast
import random
from array import array
from pathlib import Path

import pytest

import snapfs.check
from snapfs.blocks.geometry import SUPERBLOCK_SLOTS
from snapfs.blocks.pointer import FLAG_BUCKET, FLAG_DIRTY
from snapfs.errors import CorruptBlock, DeviceError, VolumeError
from snapfs.store.commit import recovery
from snapfs.store.space import group_reading
from snapfs.store.trees import block_store
from tests.damage.cases import CASES, Case
from tests.damage.planting import BLOCK, everything, metadata, planted


def test_the_volume_that_is_damaged_is_not_clean_before() -> None:
    """Clean, and with all that the cases need: records in the header and in blocks, held by the
    base and not, shared and leaving.
    """
    p = planted()
    assert [finding.message() for finding in p.check()] == []
    assert p.find("sparse").map.depth == 2
    assert p.find("twice").nlink == 2
    assert p.find("twice").attribute_bytes > 2 * BLOCK
    assert p.find("plain").inline_kind and p.find("short").inline and not p.find("long").inline
    assert p.group(0).records and not p.group(0).spill
    assert len(p.group(1).spill) > 1
    assert [one.name for one in p.volume.instances.going()] == ["leaving"]
    assert {one.name: one.origin for one in p.volume.instances.live()} == {
        "one": 0,
        "two": 0,
        "copy": 1,
        "part": 0,
    }
    assert len(p.find("many").names.root_words) and not p.find("many").names.root[0] & FLAG_BUCKET
    assert {entry.base_held for entry in p.sets.sets.values()} == {False, True}
    p.commit()
    assert [finding.message() for finding in p.check()] == [], "a commit that plants nothing"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.plant.__name__}")
def test_damage_is_not_found_or_found_to_be_another(case: Case) -> None:
    p = planted()
    where = case.plant(p)
    if not p.is_written:
        p.commit()
    found = p.check()
    assert {finding.rule for finding in found} == {case.rule} | case.also, [
        finding.message() for finding in found
    ]
    hits = [finding for finding in found if finding.rule == case.rule and finding.place == where]
    assert hits, [finding.message() for finding in found]
    assert {(finding.invariant, finding.severity) for finding in hits} == {
        (case.invariant, case.severity)
    }


def test_a_rule_is_never_proven_to_find_anything() -> None:
    position = {"add": 1, "_count": 1, "_odd": 1, "_fixed": 2}  # of the rule among the arguments
    rules = set()
    checker = Path(snapfs.check.__file__).parent
    for path in (checker / "checker.py", *(checker / "walk").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            index = (
                position.get(ast.unparse(node.func).split(".")[-1])
                if isinstance(node, ast.Call)
                else None
            )
            if (
                index is not None
                and len(node.args) > index
                and isinstance(node.args[index], ast.Constant)
            ):
                rules.add(node.args[index].value)
    assert rules == {case.rule for case in CASES}


# Media that lie (I7)


def test_a_flipped_bit_of_metadata_goes_unnoticed() -> None:
    """Whatever bit of what the volume reaches: a finding or an error that ``check_volume``
    documents, never a traceback.

    A crash may have left any bytes in the newest superblock of either ring (I8): the one before it
    stands for both.
    """
    p = planted()
    last = (p.volume.generation - 1) % SUPERBLOCK_SLOTS
    places = [(f"{what}, block {block}", block * BLOCK) for what, block in metadata(p)]
    places += [("superblock", ring[last]) for ring in p.volume.geometry.slot_offsets()]
    assert len(places) > 90
    rnd = random.Random(7)
    samples = places + rnd.choices(places, k=200 - len(places))
    for what, start in samples:
        offset, bit = start + rnd.randrange(BLOCK), rnd.randrange(8)
        p.flip(offset, bit)
        try:
            found = p.check()
        except (VolumeError, DeviceError):
            found = None
        assert found != [], f"{what}: bit {bit} of byte {offset - start}"
        p.flip(offset, bit)
    assert p.check() == []


def test_a_structure_that_makes_no_sense_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata with any bytes and a right checksum, as a bug or a malicious image may have it:
    findings, or an error, in finite time.

    The tables that are read to open the volume are left out: see the expected failures below.
    """
    p = planted()
    blocks = [
        (what, block)
        for what, block in metadata(p)
        if what not in ("root record", "instance table", "holder sets")
    ]
    for module, name in (
        (block_store, "crc32c"),
        (recovery, "crc32c"),
        (group_reading, "header_checksum"),
    ):
        monkeypatch.setattr(module, name, lambda data: Whatever())
    rnd = random.Random(11)
    unclean = 0
    for _ in range(200):
        what, block = rnd.choice(blocks)
        content = old = p.device.read(block * BLOCK, BLOCK)
        for _ in range(rnd.choice([1, 2, 8])):
            at = rnd.randrange(len(content.rstrip(b"\0")) + 1) % BLOCK
            content = (
                content[:at]
                + bytes([rnd.choice([0, 0x7F, 0x80, 0xC1, 0xFF, rnd.randrange(256)])])
                + content[at + 1 :]
            )
        p.overwrite(block * BLOCK, content)
        try:
            unclean += bool(p.check())
        except (VolumeError, DeviceError):
            unclean += 1
        except Exception as exc:
            raise AssertionError(f"{what}, block {block}: {exc!r}") from exc
        p.overwrite(block * BLOCK, old)
    assert unclean > 50, "the damage was too small to matter"


class Whatever:
    """A checksum that every other one equals."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return True


def test_a_key_of_a_table_that_is_no_number_is_believed() -> None:
    p = planted()
    _, _, number, _ = p.record(base_held=False)
    p.do(p.volume.sets_tree.touch, number)
    (bucket,) = p.volume.sets_tree.dirty.values()
    bucket.items[None] = [False, 0, b"", 0]
    p.commit()
    assert [(finding.rule, finding.place) for finding in p.check()] == [("unreadable", "volume")]


def test_a_pointer_that_passes_for_dirty_is_believed() -> None:
    p = planted()
    tree = p.volume.instances_tree
    words = array("Q", bytes(BLOCK))
    words[0], words[1] = tree.root
    words[2 * 7] = FLAG_DIRTY | 99
    tree._adopt(0, words)
    tree.root[0], tree.root[1] = FLAG_DIRTY, 0
    tree.blocks += 1
    p.commit()
    assert [(finding.rule, finding.place) for finding in p.check()] == [("unreadable", "volume")]


DATA = [
    ("plain", 0),
    ("plain", 3),
    ("twice", 0),
    ("dir/sub/deep", 4),
    ("sparse", 300),
    ("sparse", 1000),
    ("large", 1),
    ("large", 2799),
]


@pytest.mark.parametrize(("path", "index"), DATA)
def test_damaged_data_is_read_or_spoils_anything_else(path: str, index: int) -> None:
    """I7: reading the block raises, in every view that shares it. Everything else goes on, and the
    checker does not read data.
    """
    p = planted()
    inode = p.find(path)
    before = everything(p)
    views = [p.base.id, *(one.id for one in p.volume.instances.live())]
    block = p.block_of(inode, index)
    sharing = {
        number
        for number in views
        if p.block_of(p.do(p.fs.view(number).inode, inode.ino), index) == block
    }
    size = min(BLOCK, inode.size - index * BLOCK)
    content = p.do(p.fs.read, p.base, inode.ino, index * BLOCK, size)
    p.flip(block * BLOCK + 1, 3)
    p.open()
    for number in sharing:
        with pytest.raises(CorruptBlock):
            p.do(p.fs.read, p.fs.view(number), inode.ino, index * BLOCK, size)
    damaged = {key for key in before if key[0] in sharing and key[1:] == (inode.ino, index)}
    assert everything(p) == {
        key: None if key in damaged else value for key, value in before.items()
    }
    assert p.check() == []
    with pytest.raises(CorruptBlock):
        p.do(
            p.fs.write, p.base, inode.ino, index * BLOCK, content[:1]
        )  # the rest of the block would be what is damaged
    p.do(p.fs.write, p.base, inode.ino, index * BLOCK, content.ljust(BLOCK, b"\0"))
    p.commit()
    assert p.do(p.fs.read, p.base, inode.ino, index * BLOCK, size) == content
    assert p.check() == []
