"""Looking into damaged and hostile images: every page comes, and says what it could not read."""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snapfs
import snapfs.copying
from snapfs.blocks.geometry import SLOT_BYTES, SUPERBLOCK_SLOTS
from snapfs.blocks.pointer import BLOCK_MASK
from snapfs.cli.arguments import Parser
from snapfs.cli.commands import dump as command
from snapfs.cli.commands.dump import WHAT
from snapfs.device import Device
from snapfs.errors import SnapfsError
from snapfs.filesystem import Filesystem
from snapfs.filesystem.format import format_volume
from snapfs.ids import DESIGNATED_INO, FIRST_INO, ORPHANS_INO, ROOT_INO
from snapfs.store.commit.driver import commit, drive, sync
from snapfs.store.commit.recovery import open_volume
from tests.damage.cases import CASES, Case
from tests.damage.planting import BLOCK, Planted, build, metadata, planted
from tests.harness.sparse import SparseDevice

#: Exit codes, as `snapfs dump --help` has them.
OK, ERROR, DAMAGED = 0, 1, 4

#: What is asked where a sub-command needs an argument: another one of these with every case.
GROUPS = (0, 1)
INODES = (ROOT_INO, ORPHANS_INO, DESIGNATED_INO, 17, 18, 21, 25, 188, FIRST_INO, 1 << 46)
PATHS = (
    "/",
    "/plain",
    "dir/sub/deep",
    "large",
    "many",
    "long",
    "twice",
    ".snap/one/dir/sub/deep",
    "/.snap/part/dir/sub",
    "dir/.snap/two/other",
)

Answer = tuple[int, str]
Dump = Callable[..., Answer]


@functools.cache
def parser() -> Parser:
    made = Parser(prog="snapfs dump", allow_abbrev=False)
    command.configure(made)
    return made


@pytest.fixture
def dump(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dump:
    """The command, on a device in memory: its exit code and what it prints.

    It is not called by ``main``, which spends most of the time with the parsers of all commands,
    and would turn a traceback into a line.
    """

    def run(device: Device, *words: object) -> Answer:
        monkeypatch.setattr(snapfs.copying, "open_image", lambda _path, *, read_only: device)
        try:
            code = command.run(parser().parse_args(["some.img", *map(str, words)]))
        except SnapfsError as exc:
            assert str(exc)
            assert "\n" not in str(exc)
            code = ERROR
        assert code in (OK, ERROR, DAMAGED), words
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def read(dump: Dump) -> Callable[..., dict[str, Any]]:
    """The document that the command prints of a device, with its exit code as "code"."""

    def run(device: Device, *words: object) -> dict[str, Any]:
        code, out = dump(device, *words, "--json")
        assert code != ERROR
        document = json.loads(out)
        assert bool(document["problems"]) == (code == DAMAGED)
        return {**document, "code": code}

    return run


def questions(p: Planted, number: int) -> list[tuple[object, ...]]:
    """Every sub-command, once."""
    blocks = (
        p.volume.base_root.first & BLOCK_MASK,
        p.volume.root_block,
        6,
        p.block_of(p.find("plain")),
        0,
    )
    which: dict[str, object] = {
        "group": GROUPS[number % len(GROUPS)],
        "inode": INODES[number % len(INODES)],
        "path": PATHS[number % len(PATHS)],
        "map": PATHS[(number + number // len(PATHS)) % len(PATHS)],
        "block": blocks[number % len(blocks)],
        "why": blocks[number % len(blocks)],
    }
    return [(what, which[what]) if what in which else (what,) for what in WHAT]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.plant.__name__}")
def test_a_damaged_image_is_looked_at_with_a_traceback(case: Case, dump: Dump) -> None:
    p = planted()
    asked = questions(p, CASES.index(case))
    case.plant(p)
    if not p.is_written:
        p.commit()
    for words in asked:
        dump(p.device, *words, "--rows", 50, *random.Random(repr(words)).choice([[], ["--json"]]))


def test_a_sound_image_is_said_to_be_damaged(dump: Dump) -> None:
    p = planted()
    for number in range(len(PATHS)):
        for words in questions(p, number):
            code, out = dump(p.device, *words, "--rows", 50)
            assert code == (ERROR if words == ("inode", 1 << 46) else OK), (words, out)


# What is shown


USES = {
    "group header": ("header of", "block bitmap", "snapshot bitmap"),
    "records": ("records of group",),
    "attributes": ("extended attributes",),
    "directory": ("names",),
    "pointer block or target": ("data", "target"),
}


def test_why_does_not_know_what_a_block_of_metadata_is(read: Callable[..., dict[str, Any]]) -> None:
    """Two blocks of each kind: what they are used as, and the pointers on the way to them from the
    superblock on, each of which stands in the block that the one before it names.
    """
    p = planted()
    found: dict[str, list[int]] = {}
    for what, block in metadata(p):
        found.setdefault(what, []).append(block)
    for what, blocks in found.items():
        for block in {blocks[0], blocks[-1]}:
            page = read(p.device, "why", block)
            assert page["code"] == OK
            (use,) = page["used_as"]
            assert use.startswith(USES.get(what, (what,))), (what, block, use)
            assert page["in_block_bitmap"]
            if what == "group header":
                continue
            assert page["pointers"][0]["holder"].startswith("superblock slot")
            way = [one for one in page["pointers"] if one["way"] == 1]
            assert [one["names"] for one in way[:-1]] == [one["in_block"] for one in way[1:]]
            assert way[-1]["names"] == block
            assert all(one["state"] == "ok" for one in page["reached"])


@pytest.mark.parametrize(
    ("path", "index"),
    [("plain", 0), ("plain", 1), ("twice", 0), ("dir/sub/deep", 4), ("sparse", 300), ("large", 2)],
)
def test_why_misses_a_view_or_a_name(
    path: str, index: int, read: Callable[..., dict[str, Any]]
) -> None:
    """Of a block of data, as each view has it: the views that have it there, and all names."""
    p = planted()
    ino = p.find(path).ino
    blocks: dict[int, set[str]] = {}
    for view in (p.base, *(p.fs.view(one.id) for one in p.volume.instances.live())):
        one = view.instance
        if one and one.covered and not path.startswith("dir/sub"):
            continue  # it may need the block, and shows it nowhere
        name = one.name if one else "the present"
        blocks.setdefault(p.block_of(p.do(view.inode, ino), index), set()).add(name)
    for block, views in blocks.items():
        page = read(p.device, "why", block)
        assert page["used_as"] == ["data"]
        assert {name for one in page["reached"] for name in one["by"]} >= views
        assert {one["state"] for one in page["reached"]} == {"ok"}
        shown = {name: one["path"] for one in page["files"] for name in one["views"]}
        assert {shown[name] for name in views} <= {f"/{path}", "/dir/again"}
        assert {one["offset"] for one in page["files"]} == {index * BLOCK}
        if path == "twice":
            paths = [one["path"] for one in page["files"] if "the present" in one["views"]]
            assert sorted(paths) == ["/dir/again", "/twice"]


@pytest.mark.parametrize("path", ["plain", "sparse", "large", ".snap/one/large", "fifo"])
def test_a_map_names_other_blocks_than_the_file_has(
    path: str, read: Callable[..., dict[str, Any]]
) -> None:
    p = planted()
    view = p.view("one") if path.startswith(".snap") else p.base
    inode = p.find(path.removeprefix(".snap/one/"), view)
    page = read(p.device, "map", path)
    shown = {
        run["index"] + at: run["block"] + at
        for run in page["runs"]
        for at in range(run["length"])
        if run["tree"] == "data"
    }
    want = {}
    for index in range(-(-inode.size // BLOCK)):
        words, slot = p.do(inode.map.pointers, index)
        if words is not None and words[2 * slot]:
            want[index] = words[2 * slot] & BLOCK_MASK
    assert shown == want
    data = [one for one in page["pointer_blocks"] if one["tree"] == "data"]
    assert len(data) + len(shown) == inode.data.blocks


def test_pages_of_a_directory_lack_names(read: Callable[..., dict[str, Any]]) -> None:
    p = planted()
    names = {
        entry.name.decode() for entry in p.do(p.fs.entries, p.base, p.find("many").ino, 0, 1000)
    }
    page = read(p.device, "path", "many")
    assert {one["name"] for one in page["entries"]} == names
    assert sum(one["items"] for one in read(p.device, "map", "many")["buckets"]) == len(names)
    assert len(read(p.device, "path", "many", "--rows", 7)["entries"]) == 7
    assert read(p.device, "path", "many", "--rows", 7)["cut"] == ["entries"]


def test_a_free_block_and_one_that_waits_are_taken_for_used(
    read: Callable[..., dict[str, Any]],
) -> None:
    p = planted()
    group, offset = p.free_block()
    assert read(p.device, "why", group.start + offset)["used_as"] == ["free"]
    (going,) = p.volume.instances.going()
    page = read(p.device, "why", going.root.first & BLOCK_MASK)
    assert page["used_as"] == ["waits for the deletion of a snapshot"]


def test_a_number_or_path_that_is_not_there_is_no_error(dump: Dump) -> None:
    device = build()
    for words in (
        ("inode", 999),
        ("inode", 0),
        ("group", 2),
        ("block", 1 << 50),
        ("path", "nothing/x"),
        ("path", "plain/x"),
        ("path", ".snap"),
        ("map", ".snap/never/x"),
        ("inode", 1, "--snapshot", "never"),
        ("why", 40960),
    ):
        assert dump(device, *words)[0] == ERROR


def test_a_document_has_names_that_are_not_described(read: Callable[..., dict[str, Any]]) -> None:
    """Of each page of `snapfs dump --json`: its facts, tables and columns, each name once."""
    text = (Path(snapfs.__file__).parent / "doc" / "looking-inside.md").read_text()
    _, *sections = re.split(r"^### ", text, flags=re.MULTILINE)
    described = {one.split("\n", 1)[0]: set(re.findall(r"`(\w+)`", one)) for one in sections}
    assert set(described) == set(WHAT)
    described["path"] |= described["inode"]
    described["map"] |= described["path"]
    described["why"] |= described["block"]
    p = planted()
    for number in range(len(PATHS)):
        for words in questions(p, number):
            if words == ("inode", 1 << 46):
                continue
            page = read(p.device, *words, "--rows", 20)
            tables = {name for name, value in page.items() if value and type(value) is list}
            names = set(page) | {
                column
                for name in tables - {"cut", "problems"}
                for row in page[name]
                if type(row) is dict
                for column in row
            }
            common = {"image", "what", "cut", "problems", "code"}
            assert names - common <= described[str(words[0])], words


# What cannot be read


def test_one_damaged_block_hides_what_others_have(read: Callable[..., dict[str, Any]]) -> None:
    """A pointer block of a file, a bucket of a directory, a block of inodes: all else is shown."""
    p = planted()
    whole = read(p.device, "map", "large")
    damaged = whole["pointer_blocks"][3]
    p.flip(damaged["block"] * BLOCK + 99)
    page = read(p.device, "map", "large")
    assert page["code"] == DAMAGED
    assert [one["state"] == "ok" for one in page["pointer_blocks"]] == [
        one["block"] != damaged["block"] for one in whole["pointer_blocks"]
    ]
    assert page["runs"] == [run for run in whole["runs"] if run["held_by"] != damaged["block"]]

    names = read(p.device, "path", "many")["entries"]
    bucket = read(p.device, "map", "many")["buckets"][2]
    p.flip(bucket["block"] * BLOCK + 9)
    page = read(p.device, "path", "many")
    assert page["code"] == DAMAGED
    assert page["entries"] == [one for one in names if one["bucket"] != bucket["block"]]

    leaf = read(p.device, "inode", 17)["table_block"]
    p.flip(leaf * BLOCK + 9)
    page = read(p.device, "path", "twice")
    assert [(one["name"], one["state"] == "ok") for one in page["way"]] == [
        ("/", True),
        ("twice", False),
    ]
    page = read(p.device, "why", leaf)
    assert page["used_as"] == ["inode table"]
    assert [one["state"] for one in page["reached"]] == ["fails its checksum"]


def test_tables_that_cannot_be_read_hide_everything(
    read: Callable[..., dict[str, Any]], dump: Dump
) -> None:
    """Root record, instance table, holder sets, group table, a group: each in turn."""
    p = planted()
    volume = p.volume
    blocks = {
        "root": volume.root_block,
        "instances": volume.instances_tree.root[0] & BLOCK_MASK,
        "sets": volume.sets_tree.root[0] & BLOCK_MASK,
        "groups": volume.group_tree.root[0] & BLOCK_MASK,
    }
    for what, block in blocks.items():
        p.flip(block * BLOCK + 20)
        assert read(p.device, what)["code"] == DAMAGED
        assert read(p.device, "superblock")["code"] == OK
        path = "path", "dir/sub/deep"
        code, _ = dump(p.device, *path)
        assert code == (ERROR if what == "root" else DAMAGED), (
            "without a root record there are no paths"
        )
        p.flip(block * BLOCK + 20)
    headers = read(p.device, "group", 1)["headers"]
    used = next(one["block"] for one in headers if one["state"] == "counts")
    p.flip((used + 1) * BLOCK + 20)  # the block bitmap
    page = read(p.device, "group", 1)
    assert page["code"] == DAMAGED
    assert page["snapshot_by_bitmap"] == page["snapshot"]
    assert len(page["records"]) == page["record_runs"]
    assert {one["marked"] for one in page["uses"]} == {None}


def test_superblocks_cannot_be_looked_at_when_none_is_intact(
    dump: Dump, read: Callable[..., dict[str, Any]]
) -> None:
    p = planted()
    front, tail = p.volume.geometry.slot_offsets()
    for offset in (*front[:SUPERBLOCK_SLOTS], *tail[:SUPERBLOCK_SLOTS]):
        p.flip(offset + 30)
    page = read(p.device, "superblock")
    assert page["code"] == DAMAGED
    assert len(page["slots"]) == SUPERBLOCK_SLOTS
    assert all("checksum" in one["state"] for one in page["slots"])
    for what in ("root", "groups", "log"):
        assert dump(p.device, what)[0] == ERROR


def test_what_is_left_of_a_truncated_image_is_not_shown(
    read: Callable[..., dict[str, Any]], dump: Dump
) -> None:
    whole = build()
    device = SparseDevice(33000 * BLOCK)
    device.write(0, whole.read(0, 33000 * BLOCK))
    page = read(device, "superblock")
    assert page["code"] == DAMAGED
    assert [one["generation"] for one in page["slots"] if one["state"] == "newest"]
    for what in (
        ("root",),
        ("instances",),
        ("path", "dir/sub/deep"),
        ("map", "large"),
        ("why", 100),
        ("group", 1),
    ):
        page = read(device, *what)
        assert page["code"] == DAMAGED
        assert "truncated" in page["problems"][0]["problem"]
    assert dump(SparseDevice(SLOT_BYTES), "superblock")[0] == ERROR


def test_the_log_is_shown_without_what_it_has_lost(read: Callable[..., dict[str, Any]]) -> None:
    """Two records; then a block that the second one names is damaged."""
    device = SparseDevice(2048 * BLOCK)
    format_volume(device)
    volume = open_volume(device)
    fs = Filesystem(volume)

    def write(offset: int) -> None:
        drive(volume, fs.write, fs.base, ino, offset, b"logged" * 1000)

    ino = drive(volume, fs.make, fs.base, ROOT_INO, b"file", 0o100644, 0, 0).ino
    write(0)
    commit(volume)
    assert read(device, "log")["state"] == "the superblock names no log"
    volume.sync_log.wanted = True
    write(0)
    commit(volume)
    for number in (1, 2):
        write(number * 10 * BLOCK)
        assert sync(volume)
    page = read(device, "log")
    assert page["code"] == OK
    assert [(one["record"], one["inode"], one["state"]) for one in page["files"]] == [
        (0, ino, "ok"),
        (1, ino, "ok"),
    ]
    first = volume.sync_log.region[0] if volume.sync_log.region else 0
    assert [one["record_block"] for one in page["files"]] == [first, first + 1]
    assert read(device, "why", first)["used_as"] == ["log"]
    assert read(device, "inode", ino)["in_log"]
    run = page["runs"][-1]
    device.write(run["block"] * BLOCK, b"lost")
    page = read(device, "log")
    assert page["code"] == DAMAGED
    assert [one["state"] for one in page["files"]] == [
        "ok",
        f"block {run['block']} fails its checksum",
    ]
