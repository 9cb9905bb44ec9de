"""`snapfs dump`, as its users meet it: on image files, mounted and not."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest


@pytest.fixture
def used(mounted: Any) -> Any:
    """A volume with a file, a snapshot, and a file that was changed since."""
    (mounted / "dir").mkdir()
    (mounted / "dir" / "file").write_bytes(b"before" * 5000)
    mounted.snapshot("one")
    with (mounted / "dir" / "file").open("r+b") as file:
        file.write(b"after" * 1000)
    return mounted


def test_an_image_in_use_is_looked_at_unasked_or_cannot_be_at_all(used: Any) -> None:
    """Mounted: refused in one line, as by every command that opens images; with --in-use shown."""
    result = used.run("dump", used.image, "superblock", code=1)
    assert f"in use by process {used.pid}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "newest" in used.run("dump", used.image, "superblock", "--in-use").stdout
    used.run("snapshot", "create", used.path, "two")  # a commit
    found = json.loads(used.run("dump", used.image, "instances", "--in-use", "--json").stdout)
    assert [one["name"] for one in found["instances"]] == ["one", "two"]


def test_what_a_file_is_made_of_cannot_be_found(used: Any) -> None:
    """From a path to a block, and from the block back to the path and the views that show it."""
    used.unmount()

    def read(*words: object) -> Any:
        return json.loads(used.run("dump", used.image, *map(str, words), "--json").stdout)

    now, before = read("map", "/dir/file"), read("map", "dir/.snap/one/file")
    assert now["inode"] == before["inode"]
    assert now["runs"] != before["runs"]
    changed, kept = before["runs"][0]["block"], now["runs"][-1]["block"]
    why = read("why", changed)
    assert (why["used_as"], why["in_snapshot_bitmap"]) == (["data"], True)
    assert [(one["path"], one["views"]) for one in why["files"]] == [("/dir/file", ["one"])]
    why = read("why", kept)
    assert {name for one in why["files"] for name in one["views"]} == {"the present", "one"}
    text = used.run("dump", used.image, "why", str(kept)).stdout
    assert "/dir/file" in text
    assert "the present" in text


@pytest.mark.parametrize("words", [["inode"], ["inode", "one"], ["bitmap"], ["group", "-1"], []])
def test_words_that_are_none_of_a_dump_end_otherwise(words: list[str], run_snapfs: Any) -> None:
    result: subprocess.CompletedProcess[str] = run_snapfs("dump", "some.img", *words, code=2)
    assert result.stderr.count("\n") == 1
    assert "--help" in result.stderr
