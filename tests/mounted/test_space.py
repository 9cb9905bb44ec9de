"""Space on a real mount: figures that agree with df(1) and with what deleting does; snapshots that
go by themselves when space runs out.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20


def df(mounted, target: object = None, *names: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        mounted.run("df", target or mounted.path, *names, "--json").stdout
    )
    return found


def snapshots(mounted, target: object = None) -> dict[str, dict[str, Any]]:
    return {
        one["name"]: one
        for one in json.loads(
            mounted.run("snapshot", "list", target or mounted.path, "--json").stdout
        )
    }


def rewrite(path: Path, start: int = 0, size: int = MIB) -> None:
    """Overwrite a part; nothing is flushed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.pwrite(descriptor, os.urandom(size), start)
    os.close(descriptor)


def story(mounted) -> None:
    """Four snapshots: each shares something with its neighbours, one was written, one is a copy of
    another.
    """
    rewrite(mounted / "file", size=4 * MIB)
    for number, name in enumerate(["one", "two", "three"]):
        mounted.snapshot(name)
        rewrite(mounted / "file", start=number * MIB)
    mounted.run("snapshot", "create", mounted.path, "copy", "--of", "two")
    rewrite(mounted.view("two") / ".snap" / "copy" / "file", start=3 * MIB)


def statfs(mounted) -> tuple[int, int, int]:
    found = os.statvfs(mounted.path)
    return (
        found.f_blocks * found.f_frsize,
        found.f_bfree * found.f_frsize,
        found.f_bavail * found.f_frsize,
    )


def idle(mounted) -> bool:
    return df(mounted)["volume"]["leaving"] == 0


def test_df_contradicts_the_figures(mounted) -> None:
    """E: the parts add up to the size; statfs(2) and df(1) say the same, with data that the kernel
    still held back.
    """
    story(mounted)
    parts = df(mounted)["volume"]
    size = parts.pop("size")
    assert sum(parts.values()) == size
    assert parts["due"] == 0
    assert statfs(mounted) == (size, parts["reserved"] + parts["available"], parts["available"])
    line = subprocess.run(
        ["df", "-B1", "--output=size,used,avail", mounted.path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    used = parts["present"] + parts["snapshots"] + parts["leaving"] + parts["tables"]
    assert [int(word) for word in line.splitlines()[1].split()] == [size, used, parts["available"]]
    assert 4 * MIB <= parts["present"] < 5 * MIB
    assert 4 * MIB <= parts["snapshots"] < 5 * MIB


def test_the_image_says_something_else_than_the_mount(mounted) -> None:
    """E: the same figures for TARGET as a path inside, as the image that is mounted, and as the
    image at rest.
    """
    story(mounted)
    before = df(mounted)
    assert df(mounted, mounted.image) == before
    listed = snapshots(mounted)
    assert {name: one["only_here"] for name, one in listed.items()} == {
        one["name"]: one["only_here"] for one in before["snapshots"]
    }
    mounted.unmount()
    after = df(mounted, mounted.image)
    assert after["snapshots"] == before["snapshots"]
    for part in ("size", "present", "snapshots"):
        assert after["volume"][part] == before["volume"][part]


@pytest.mark.parametrize(
    "chosen", [["one"], ["copy"], ["two", "copy"], ["one", "two", "three", "copy"]], ids="+".join
)
def test_a_dry_run_promises_something_else_than_it_frees(
    chosen: list[str], mounted, wait_until
) -> None:
    """E: byte for byte. Nothing is deleted by the dry run, and afterwards all of them are gone."""
    story(mounted)
    told = json.loads(
        mounted.run("snapshot", "delete", "--dry-run", "--json", mounted.path, *chosen).stdout
    )
    assert (told["dry_run"], told["names"], told["refused"]) == (True, chosen, [])
    assert told["frees"] == df(mounted, None, *chosen)["frees"] > 0
    assert (
        f"({told['frees']} bytes)"
        in mounted.run("snapshot", "delete", "--dry-run", mounted.path, *chosen).stdout
    )
    if len(chosen) == 1:
        assert told["frees"] == snapshots(mounted)[chosen[0]]["only_here"]
    before, (_, free, _) = df(mounted)["volume"], statfs(mounted)
    assert len(snapshots(mounted)) == 4
    done = json.loads(mounted.run("snapshot", "delete", "--json", mounted.path, *chosen).stdout)
    assert (done["dry_run"], done["names"], done["frees"]) == (False, chosen, told["frees"])
    assert set(snapshots(mounted)) == {"one", "two", "three", "copy"} - set(chosen)
    wait_until(lambda: idle(mounted), what="the space of deleted snapshots is free")
    after = df(mounted)["volume"]
    assert before["snapshots"] - after["snapshots"] == told["frees"]
    assert after["present"] == before["present"]
    assert statfs(mounted)[1] - free == told["frees"] + before["tables"] - after["tables"]


def test_one_that_cannot_be_deleted_saves_the_others(mounted) -> None:
    """One line for each; the dry run says the same, and the figure is that of the rest."""
    story(mounted)
    mounted.run("snapshot", "hold", mounted.path, "two")
    frees = df(mounted, None, "one", "three")["frees"]
    words = ["snapshot", "delete", mounted.path, "one", "two", "nothing", "three", "one"]
    dry = mounted.run(*words, "--dry-run", code=1)
    assert f"2 snapshots would free {frees / MIB:.1f} MiB ({frees} bytes)" in dry.stdout
    real = mounted.run(*words, code=1)
    assert dry.stderr == real.stderr
    assert [("held" in line, "nothing" in line) for line in real.stderr.splitlines()] == [
        (True, False),
        (False, True),
    ]
    assert set(snapshots(mounted)) == {"two", "copy"}


def test_df_prints_what_nobody_understands(mounted) -> None:
    story(mounted)
    lines = mounted.run("df", mounted.path).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "Size", "Used by the present", "Only by snapshots", "Being freed", "The volume's tables",
        "Reserved", "Available",
    ]  # fmt: skip
    table = mounted.run("df", mounted.path, "one", "two").stdout
    assert table.splitlines()[0].split() == ["NAME", "REFERS", "ONLY", "HERE"]
    assert "deleting all 2 would free" in table
    assert mounted.run("df", mounted.path, "missing", code=1).stderr.count("\n") == 1


def test_a_snapshot_of_a_directory_claims_to_know_what_lies_below(mounted) -> None:
    """What a snapshot of a part refers to is not counted, and says so."""
    (mounted / "part").mkdir()
    rewrite(mounted / "part" / "file")
    (mounted / "part" / ".snap" / "p").mkdir()
    rewrite(mounted / "part" / "file")
    (row,) = df(mounted)["snapshots"]
    assert (row["path"], row["refers"]) == ("/part", None)
    assert row["only_here"] >= MIB
    assert mounted.run("df", mounted.path, "p").stdout.splitlines()[1].split()[1] == "-"


# --- autodelete -----------------------------------------------------------------------------------


def policy_rounds(mounted, names: list[str], size: int = 4 * MIB) -> None:
    """Snapshots of a policy, each of which alone has what a file was."""
    for name in names:
        rewrite(mounted / "file", size=size)
        mounted.run("snapshot", "create", mounted.path, name, "--tag", "policy=hourly")
    rewrite(mounted / "file", size=size)


@pytest.mark.volume(size="64M", options="autodelete=oldest,autodelete_below=25,commit=0.1")
def test_old_snapshots_outlive_the_space_that_is_needed(mounted, wait_until) -> None:
    """E: below the percentage the oldest of a policy go, as if somebody had removed them; those of
    people stay.
    """
    rewrite(mounted / "file", size=4 * MIB)
    by_hand = mounted.snapshot("by-hand")
    policy_rounds(mounted, ["p1", "p2", "held", "p3"])
    mounted.run("snapshot", "hold", mounted.path, "held")
    assert os.path.getsize(mounted.view("p1") / "file") == 4 * MIB
    rewrite(mounted / "much", size=28 * MIB)
    wait_until(lambda: "p1" not in snapshots(mounted), what="the oldest snapshot is deleted")
    size, _, _ = statfs(mounted)
    wait_until(
        lambda: (
            statfs(mounted)[2] * 100 >= 25 * size or set(snapshots(mounted)) == {"by-hand", "held"}
        ),
        what="there is room again",
    )
    assert not mounted.view("p1").exists()
    assert {"by-hand", "held"} <= set(snapshots(mounted))
    assert os.path.getsize(by_hand / "file") == 4 * MIB


@pytest.mark.volume(size="64M", options="autodelete=oldest,autodelete_below=0")
def test_a_write_finds_no_space_although_snapshots_could_go(mounted) -> None:
    """E: before ENOSPC, also for what the kernel has already accepted; nothing that was written is
    lost.
    """
    policy_rounds(mounted, ["p1", "p2", "p3", "p4"])
    _, _, available = statfs(mounted)
    content = os.urandom(available // MIB * MIB + 6 * MIB)
    with (mounted / "large").open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    assert set(snapshots(mounted)) == {"p3", "p4"}
    mounted.remount("autodelete=none")
    assert (mounted / "large").read_bytes() == content
    with pytest.raises(OSError, match="No space left"), (mounted / "more").open("wb") as file:
        file.write(os.urandom(8 * MIB))
        file.flush()
        os.fsync(file.fileno())
    assert set(snapshots(mounted)) == {"p3", "p4"}


@pytest.mark.volume(size="64M", options="autodelete=oldest,autodelete_below=0")
def test_a_writer_in_the_snapshot_that_goes_hangs(mounted) -> None:
    """The kernel must let go of the snapshot's files, and one of them may be the one whose write
    makes it go.
    """
    policy_rounds(mounted, ["p1", "p2"])
    _, _, available = statfs(mounted)
    rewrite(mounted / "filler", size=available // MIB * MIB)
    with (
        pytest.raises(OSError),
        (mounted.view("p1") / "file").open("r+b") as file,
    ):  # ESTALE: it is gone, as if somebody had removed it
        for start in range(0, 16 * MIB, MIB):
            os.pwrite(file.fileno(), os.urandom(MIB), 8 * MIB + start)
            os.fsync(file.fileno())
    assert "p1" not in snapshots(mounted)
    assert (mounted / "filler").stat().st_size == available // MIB * MIB


def test_autodelete_options_that_cannot_be_are_believed(mounted) -> None:
    mounted.unmount()
    for options in (
        "autodelete=newest",
        "autodelete=oldest,autodelete_below=100",
        "autodelete_below=5",
    ):
        assert mounted.mount(options, code=1).stderr.count("\n") == 1
