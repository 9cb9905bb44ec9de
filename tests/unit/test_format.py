"""doc/format.md is the format: its tables are those of the code."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from snapfs import ids
from snapfs.blocks import (
    claim,
    copy_mark,
    geometry,
    group_header,
    inode,
    log_record,
    map_sector,
    pointer,
    superblock,
)

TEXT = (Path(superblock.__file__).parents[1] / "doc" / "format.md").read_text()


def section(number: int) -> str:
    """A section's text, each paragraph of it one line."""
    text = TEXT.split(f"\n## {number}. ")[1].split("\n## ")[0]
    return re.sub(r"(?<=[^\n|])\n(?=[^\n|-])", " ", text)


def rows(number: int) -> list[tuple[int, int | None, str]]:
    """The lines of a section's table of offsets: offset, size, meaning."""
    found = re.findall(r"^\| (\d+) \| (\d*) ?\| (.*) \|$", section(number), re.MULTILINE)
    return [(int(offset), int(size) if size else None, text) for offset, size, text in found]


def layout_offsets(layout: struct.Struct) -> list[tuple[int, int]]:
    """Offset and size of every field of a little-endian struct."""
    out, position = [], 0
    for count, code in re.findall(r"(\d*)([A-Za-z])", layout.format.lstrip("<")):
        times = 1 if code == "s" or not count else int(count)
        one = struct.calcsize(f"<{count}s") if code == "s" else struct.calcsize(f"<{code}")
        for _ in range(times):
            if code != "x":
                out.append((position, one))
            position += one
    assert position == layout.size
    return out


def test_constants_in_the_table_are_those_in_the_code() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", section(1), re.MULTILINE))
    assert len(table) >= 11
    for name, value in table.items():
        module = next(module for module in (geometry, inode, ids) if hasattr(module, name))
        assert getattr(module, name) == int(value), name


def test_superblock_fields_are_where_the_document_says() -> None:
    documented = [(offset, size) for offset, size, _ in rows(2)]
    assert documented[:-1] == layout_offsets(superblock.LAYOUT)
    assert documented[-1] == (superblock.CHECKSUM_OFFSET, 4)
    assert superblock.MAGIC.hex(" ") in section(2)
    assert f"version: {superblock.VERSION}" in section(2)


def test_claim_fields_are_where_the_document_says() -> None:
    documented = [(offset, size) for offset, size, _ in rows(14)]
    assert documented[:-1] == layout_offsets(claim.LAYOUT)
    assert documented[-1] == (claim.CHECKSUM_OFFSET, 4)
    assert f"`{claim.MAGIC.decode()}`" in section(14)
    assert f"at byte {claim.CLAIM_PLACE}: slot {geometry.SUPERBLOCK_SLOTS} of" in section(14)
    assert f"{claim.INTERVAL_LEAST * 1000:.0f} to {claim.INTERVAL_MOST * 1000:.0f}" in section(14)
    assert f"({claim.INTERVAL:.0f} seconds if that cannot be read)" in section(14)


def test_log_record_fields_are_where_the_document_says() -> None:
    documented = rows(13)
    assert [(offset, size) for offset, size, _ in documented[:-2]] == layout_offsets(
        log_record.LAYOUT
    )
    assert documented[-2][:2] == (log_record.CHECKSUM_OFFSET, 4)
    assert documented[-1][0] == log_record.PAYLOAD_OFFSET
    assert f"`{log_record.MAGIC.decode()}`" in section(13)
    assert f"0 (none) to {superblock.LOG_BLOCKS_MAX}" in section(2)


def test_group_header_fields_are_where_the_document_says() -> None:
    documented = rows(3)
    assert [(offset, size) for offset, size, _ in documented[:-1]] == layout_offsets(
        group_header.LAYOUT
    )
    assert documented[-1][0] == group_header.PAYLOAD_OFFSET
    assert f"`{group_header.MAGIC.decode()}`" in section(3)
    assert f"or {group_header.SPILL.size} bytes" in section(3)


def test_group_table_entries_are_as_the_document_says() -> None:
    documented = rows(4)
    assert [(offset, size) for offset, size, _ in documented[:-1]] == layout_offsets(
        group_header.ENTRY
    )
    assert group_header.ENTRY.size == 32 == documented[-1][0] + 4
    assert (group_header.ENTRY_SLOT, group_header.ENTRY_WRITTEN) == (1, 2)


def test_inode_fields_are_where_the_document_says() -> None:
    single = layout_offsets(inode.LAYOUT)
    merged: list[tuple[int, int]] = []
    skip = 0
    for index, (offset, size) in enumerate(single):
        if skip:
            skip -= 1
        elif offset in (32, 44, 56, 68, 104, 120):  # times and pointers are one row each
            merged.append((offset, size + single[index + 1][1]))
            skip = 1
        else:
            merged.append((offset, size))
    documented = [(offset, size) for offset, size, _ in rows(6)]
    assert documented[:-1] == merged
    assert documented[-1] == (inode.INLINE_OFFSET, inode.INLINE_BYTES)
    assert inode.INLINE_OFFSET + inode.INLINE_BYTES == inode.INODE_BYTES


@pytest.mark.parametrize(
    ("word", "bits", "mask"),
    [
        (0, "0 to 47", pointer.BLOCK_MASK),
        (0, "48 to 55", pointer.WRITES_MAX << pointer.WRITES_SHIFT),
        (0, "56", pointer.FLAG_BUCKET),
        (1, "0 to 31", pointer.EPOCH_MASK),
        (1, "32 to 63", 0xFFFF_FFFF << pointer.CHECKSUM_SHIFT),
    ],
)
def test_pointer_bits_are_where_the_document_says(word: int, bits: str, mask: int) -> None:
    assert f"| {word} | {bits} |" in section(5)
    low, _, high = bits.partition(" to ")
    assert mask == (1 << int(high or low) + 1) - (1 << int(low))


def test_instances_and_root_record_have_the_documented_keys() -> None:
    from snapfs.store.tables.facts import (
        DESCRIPTION_MAX,
        HOLD_NAME_MAX,
        HOLDS_MAX,
        REASON_MAX,
        TAGS_BYTES_MAX,
        TAGS_MAX,
        Facts,
    )
    from snapfs.store.tables.instances import FACTS_KEY, Instance
    from snapfs.store.tables.root_record import RootRecord

    root = set(__import__("msgpack").unpackb(RootRecord().encode()))
    assert root == set(re.findall(r"`(\w+)`", section(2).split("**root record**")[1]))
    instance, facts = (
        section(8).split("An instance is a map:")[1].split("What people say about an instance")
    )
    assert set(Instance(1, "x").encode()) == set(re.findall(r"`(\w+)`", instance))
    assert set(Facts().encode()) == set(re.findall(r"`(\w+)`", facts))
    assert f"its id + {FACTS_KEY};" in facts
    limits = (DESCRIPTION_MAX, TAGS_MAX, TAGS_BYTES_MAX, HOLDS_MAX, HOLD_NAME_MAX, REASON_MAX)
    assert [int(number) for number in re.findall(r"(?:at most|with|1 to) (\d+)", facts)] == list(
        limits
    )


def test_a_running_copy_has_the_documented_keys_and_limits() -> None:
    from snapfs.store.tables.copies import (
        ID_BYTES,
        PATH_MAX,
        RUNS_MAX,
        RunningCopy,
    )

    text = section(11)
    described = text.split("In the block is one map:")[1].split("\n\n")[1]
    assert set(__import__("msgpack").unpackb(RunningCopy(bytes(16), 1, b"/copy").encode())) == set(
        re.findall(r"`(\w+)`", described)
    )
    limits = re.findall(r"\((\d+) bytes, not all|at most (\d+) (?:runs|bytes)", text)
    assert [int(one or other) for one, other in limits] == [ID_BYTES, RUNS_MAX, PATH_MAX]
    assert f"{superblock.COPY_RUNNING}: a copy is running" in section(2)
    assert f"feature {superblock.COPY_RUNNING} of the superblock" in text


def test_the_target_of_a_copy_is_marked_as_the_document_says() -> None:
    mark, sector, first = [], [], []
    for table, text in zip(
        (mark, sector, first), section(12).split("| offset | size | |")[1:], strict=True
    ):
        found = re.findall(r"^\| (\d+) \| (\d*) ?\|", text, re.MULTILINE)
        table += [(int(offset), int(size) if size else None) for offset, size in found]
    assert mark[:-1] == layout_offsets(copy_mark.LAYOUT)
    assert mark[-1] == (copy_mark.LAYOUT.size, None)
    assert (
        f"bytes {copy_mark.PLACES[0]} to "
        f"{copy_mark.PLACES[0] + copy_mark.PLACE_BYTES - 1} of the slot" in section(12)
    )
    assert sector[:2] == layout_offsets(map_sector.HEAD)
    assert sector[2] == (map_sector.HEAD.size, map_sector.SECTOR_BYTES - map_sector.HEAD.size)
    assert f"{map_sector.SECTOR_BITS} bits" in section(12)
    assert first == [
        (offset + map_sector.HEAD.size, size) for offset, size in layout_offsets(map_sector.FIRST)
    ]
    assert f"magic `{copy_mark.MAGIC.decode()}`" in section(12)
    assert f"magic `{map_sector.MAGIC.decode()}`" in section(12)
    for state in copy_mark.STATES:
        assert f'"{state}"' in section(12)
    fields = re.search(
        r"unpack_map\(data\[LAYOUT.size : end\], _WHAT, \{(.*?)\}\)",
        Path(copy_mark.__file__).read_text(),
        re.DOTALL,
    )
    assert fields
    for name in re.findall(r'"(\w+)":', fields[1]):
        assert f"`{name}`" in section(12), name
