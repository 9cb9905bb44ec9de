"""What must not take longer on a larger volume, with more files, with more snapshots; and what must
not take much longer than on a filesystem that does nothing.

These tests compare times, so nothing else runs beside them.
"""

from __future__ import annotations

import json
import os
import random
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapfs import ids, snapshots
from snapfs.store.commit.driver import commit, drive
from tests.harness.images import Images
from tests.harness.mounts import resident
from tests.harness.offline import fill, make, offline

pytestmark = pytest.mark.alone

#: Seconds below which differences between two medians are noise of the machine.
NOISE = 0.02


def seconds(function: Callable[..., object], *args: object) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def process_start(run_snapfs) -> float:
    """What any command takes here, to subtract from those that are measured: a busy machine starts
    processes slowly.
    """
    return min(seconds(run_snapfs, "--version") for _ in range(3))


# --- a large volume -------------------------------------------------------------------------------


def test_a_volume_of_1_tib_is_made_and_mounted_in_under_a_second(
    images, mount_volume, run_snapfs, tmp_path: Path
) -> None:
    idle = process_start(run_snapfs)
    formatting, mounting = [], []
    for number in range(3):
        image = tmp_path / f"large{number}.img"
        formatting.append(seconds(run_snapfs, "mkfs", image, "--size", "1T") - idle)
        images.watch(image)
    mounted = mount_volume(image)
    for _ in range(3):
        mounted.unmount()
        mounting.append(seconds(mounted.mount) - idle)
    assert statistics.median(formatting) < 1
    assert statistics.median(mounting) < 1
    assert image.stat().st_size == 1 << 40
    assert image.stat().st_blocks * 512 < 16 << 20
    status = os.statvfs(mounted.path)
    assert status.f_blocks * status.f_frsize > (1 << 40) * 0.99
    assert resident(mounted.pid) < 150 << 20


@pytest.mark.slow
def test_a_snapshot_takes_as_long_as_on_a_volume_that_is_as_large_and_empty(mount_volume) -> None:
    """A2: the pause does not grow with the volume: 256 MiB or 1 TiB."""
    medians = []
    for size in ("256M", "1T"):
        mounted = mount_volume(size=size)
        (mounted / "file").write_bytes(b"first")
        medians.append(median_of_snapshots(mounted.path))
    assert medians[1] < 3 * max(medians[0], NOISE)


# --- many files -----------------------------------------------------------------------------------

FILES = 200_000
IN_DIRECTORY = 1000


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with ``FILES`` files, of which half are in its snapshot ``half``. It takes as long
    to make as all that is done with it.
    """
    images = Images(tmp_path_factory.mktemp("filled"), "filled")
    image = images.make("1G")
    with offline(image) as fs:
        fill(fs, 0, FILES // 2, IN_DIRECTORY)
        drive(fs.volume, snapshots.create, fs, "half")
        commit(fs.volume)
        fill(fs, FILES // 2, FILES, IN_DIRECTORY)
    return image


@pytest.fixture
def many_files(filled: Path, images: Images) -> Path:
    """A copy of that, for one test."""
    image = images.directory / "many.img"
    subprocess.run(["cp", "--sparse=always", filled, image], check=True, timeout=60)
    return images.watch(image)


def median_of_snapshots(top: Path) -> float:
    """Of fifteen, with a change before each, and deleted again."""
    times = []
    for number in range(15):
        (top / "change").write_text(str(number))
        times.append(seconds((top / ".snap" / f"s{number}").mkdir))
    for number in range(15):
        (top / ".snap" / f"s{number}").rmdir()
    return statistics.median(times)


@pytest.mark.slow
def test_a_snapshot_of_200_000_files_takes_as_long_as_one_of_none(
    many_files: Path, mount_volume
) -> None:
    """A2, C3: nothing is walked."""
    empty, mounted = mount_volume(size="1G"), mount_volume(many_files)
    (mounted / "d77000" / "file 77700").write_text("content of 77700")
    base = median_of_snapshots(empty.path)
    taken = median_of_snapshots(mounted.path)
    assert taken < 3 * max(base, NOISE)
    (mounted / ".snap" / "s").mkdir()
    assert len(os.listdir(mounted.view("s"))) == FILES // IN_DIRECTORY + 1
    assert (mounted.view("s") / "d77000" / "file 77700").read_text() == "content of 77700"
    assert resident(mounted.pid) < 300 << 20


def facts(top: Path) -> dict[str, tuple[object, ...]]:
    """What a walk finds of each file, without looking into any."""
    found: dict[str, tuple[object, ...]] = {}
    waiting = [os.fspath(top)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found[os.path.relpath(entry.path, top)] = (
                    status.st_mode,
                    status.st_uid,
                    status.st_gid,
                    status.st_size,
                    status.st_mtime_ns,
                )
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_takes_as_long_as_walking_both_trees(many_files: Path, mount_volume) -> None:
    """Of 200,000 files 100 are changed: 1/50 of the time, at most, of a walk that does not even
    read the files.
    """
    mounted = mount_volume(many_files)
    (mounted / ".snap" / "s").mkdir()
    changed = {
        f"d{number // IN_DIRECTORY * IN_DIRECTORY}/file {number}"
        for number in random.Random(1).sample(range(FILES), 100)
    }
    for path in changed:
        (mounted / path).write_text("changed")
    mounted.remount()  # nothing is in memory
    documents, times = [], []
    for _ in range(3):
        start = time.perf_counter()
        documents.append(
            json.loads(mounted.run("diff", mounted.path, "s", "--json").stdout)["changes"]
        )
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    old, new = facts(mounted.view("s")), facts(mounted.path)
    walked = {path for path in old if old[path] != new[path]}
    walking = time.perf_counter() - start
    assert walked == changed
    for found in documents:
        assert {one["path"] for one in found} == changed
        assert {one["letters"] for one in found} == {"M"}
    print(f"comparing: {[round(one, 3) for one in times]} s; walking: {walking:.1f} s")
    assert statistics.median(times) < walking / 50
    assert resident(mounted.pid) < 500 << 20


@pytest.mark.slow
def test_a_comparison_keeps_users_waiting(
    many_files: Path, mount_volume, snapfs_command, start, tmp_path: Path
) -> None:
    """While 100,000 additions are found and told, files can be made as usual; what the daemon keeps
    for it is bounded.
    """
    mounted = mount_volume(many_files)
    pid = mounted.pid
    (mounted / "warm").touch()
    before = resident(pid)
    waits = []
    with (tmp_path / "out").open("w") as out:
        process = start(snapfs_command("diff", mounted.path, "half", "--json-lines"), stdout=out)
        while process.poll() is None:
            waits.append(seconds((mounted / f"while {len(waits)}").touch))
        assert process.returncode == 0
    told = {json.loads(line)["path"] for line in (tmp_path / "out").read_text().splitlines()}
    assert len([path for path in told if "/file" in path]) == FILES // 2
    print(
        f"{len(waits)} files made meanwhile, median {statistics.median(waits):.4f} s, "
        f"longest {max(waits):.3f} s"
    )
    assert len(waits) > 20
    assert statistics.median(waits) < 0.1
    assert resident(pid) - before < 100 << 20


@pytest.mark.slow
def test_a_directory_of_100_000_names(images, mount_volume) -> None:
    """Listed whole, each name once; looking one up, adding and removing cost nothing more."""
    count = 100_000
    image = images.make("512M")
    with offline(image) as fs:
        directory = make(fs, ids.ROOT_INO, "many", stat.S_IFDIR)
        for number in range(count):
            make(fs, directory, f"a rather long name, as people give them, number {number}")
    mounted = mount_volume(image)
    many = mounted / "many"
    found = os.listdir(many)
    assert len(found) == count
    assert set(found) == {
        f"a rather long name, as people give them, number {number}" for number in range(count)
    }
    mounted.snapshot("s")
    few = mounted / "few"
    few.mkdir()
    for step in range(2):  # the first warms up
        times = {}
        for directory_ in (few, many):
            samples = []
            for number in range(200):
                path = directory_ / f"new {step} {number}"
                samples.append(seconds(path.touch) + seconds(path.unlink))
            times[directory_] = statistics.median(samples)
    assert times[many] < 4 * max(times[few], 0.001)
    # Names that are there all the while are listed once, whatever is added and removed meanwhile.
    seen = []
    with os.scandir(many) as entries:
        for index, entry in enumerate(entries):
            seen.append(entry.name)
            if index % 500 == 0:
                (many / f"added {index}").touch()
            if index % 500 == 250:
                os.unlink(entry.path)
    stable = [name for name in seen if name.startswith("a rather")]
    assert len(stable) == len(set(stable)) == count
    assert len(os.listdir(mounted.view("s") / "many")) == count


# --- many snapshots -------------------------------------------------------------------------------


class History:
    """A small tree that changes a little before every snapshot, and what each of them must show."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.dice = random.Random(7)
        self.now: dict[str, bytes] = {}
        self.states: dict[str, dict[str, bytes]] = {}

    def change(self) -> None:
        name = f"file{self.dice.randrange(8)}"
        path = self.top / name
        content = self.now.get(name)
        action = self.dice.random()
        if content is None or action < 0.4:
            self.now[name] = self.dice.randbytes(self.dice.randrange(1, 20_000))
            path.write_bytes(self.now[name])
        elif action < 0.7:
            place, patch = (
                self.dice.randrange(len(content) + 5000),
                self.dice.randbytes(self.dice.randrange(1, 5000)),
            )
            with path.open("r+b") as file:
                file.seek(place)
                file.write(patch)
            self.now[name] = (
                content[:place].ljust(place, b"\0") + patch + content[place + len(patch) :]
            )
        elif action < 0.8:
            size = self.dice.randrange(len(content) + 1)
            os.truncate(path, size)
            self.now[name] = content[:size]
        elif action < 0.9:
            path.unlink()
            del self.now[name]
        else:
            other = f"file{self.dice.randrange(8)}"
            os.rename(path, self.top / other)
            self.now[other] = self.now.pop(name)

    def snapshot(self, name: str) -> None:
        (self.top / ".snap" / name).mkdir()
        self.states[name] = dict(self.now)

    def prove(self, name: str | None = None) -> None:
        expected = self.now if name is None else self.states[name]
        top = self.top if name is None else self.top / ".snap" / name
        found = {}
        for file in os.listdir(top):
            with open(top / file, "rb") as stream:
                found[file] = stream.read()
        if found != expected:
            sizes = [{key: len(value) for key, value in one.items()} for one in (found, expected)]
            pytest.fail(
                f"{name or 'the base'} has not its content; sizes {sizes[0]}, expected {sizes[1]}"
            )


@pytest.mark.slow
@pytest.mark.volume(size="512M")
def test_1000_snapshots_with_a_change_between_each(mounted, wait_until) -> None:
    """A4, A9, A10, C6: made, read, every second deleted, one in the middle
    gone back to: all exact.
    """
    history = History(mounted.path)
    times = []
    for number in range(1000):
        history.change()
        start = time.perf_counter()
        history.snapshot(f"s{number:04}")
        times.append(time.perf_counter() - start)
    # The last ones take as long as the first ones.
    assert statistics.median(times[-100:]) < 3 * max(statistics.median(times[:100]), NOISE)
    assert sorted(os.listdir(mounted / ".snap")) == sorted(history.states)
    for name in history.states:
        history.prove(name)
    history.prove()
    for number in range(0, 1000, 2):
        (mounted / ".snap" / f"s{number:04}").rmdir()
        del history.states[f"s{number:04}"]
    listing = json.loads(mounted.run("snapshot", "list", mounted.path, "--json").stdout)
    assert [one["name"] for one in listing] == sorted(history.states)

    def remaining() -> int:
        return json.loads(mounted.run("info", mounted.path, "--json").stdout)["counters"][
            "instances"
        ]

    wait_until(lambda: remaining() == 500, limit=60, what="the end of the background deletion")
    for name in history.states:
        history.prove(name)
    history.prove()
    mounted.remount()
    before = dict(history.now)
    target = "s0501"  # the 500th had an even number
    mounted.run("restore", mounted.path, target)
    (undo,) = set(os.listdir(mounted / ".snap")) - set(history.states)
    history.now = dict(history.states[target])
    history.states[undo] = before
    history.prove()
    for name in history.states:
        history.prove(name)
    for _ in range(20):
        history.change()
    mounted.remount()
    history.prove()
    for name in list(history.states)[::10]:
        history.prove(name)
    bits = {one["id"] for one in listing}
    for number in range(20):
        history.change()
        history.snapshot(f"again {number}")
    again = json.loads(mounted.run("snapshot", "list", mounted.path, "--json").stdout)
    fresh = [one["id"] for one in again if one["name"].startswith("again")]
    assert not bits & set(fresh)
    assert max(fresh) <= 1000  # bits that were given back
    for number in range(20):
        history.prove(f"again {number}")


# --- beside the empty filesystem ------------------------------------------------------------------

#: Of the speed of the empty filesystem. It does nothing but answer, and does not look for requests
#: before it sleeps as snapfs does.
AT_LEAST = {
    "create": 0.3,
    "open and read": 0.3,
    "rename": 0.25,
    "unlink": 0.25,
    "sequential write": 0.15,
}

#: Measurements of both, of which the best of each counts: another process may have had the
#: processor.
TRIES = 6


#: How many files, their size, that of a write, and how many of these: of each operation.
SMALL_FILES, BLOCK, MIB, WRITES = 100, 1 << 12, 1 << 20, 16


def create(path: str, content: bytes = b"") -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
    if content:
        os.write(descriptor, content)
    os.close(descriptor)


def read(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, BLOCK)
    os.close(descriptor)


@pytest.fixture
def empty_filesystem(tmp_path: Path) -> Iterator[Path]:
    """That of ``make bench``, mounted."""
    path = tmp_path / "empty"
    path.mkdir()
    script = Path(__file__).parents[1] / "benchmarks" / "empty_filesystem.py"
    with subprocess.Popen(
        [sys.executable, script, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield path
        finally:
            subprocess.run(["fusermount3", "-u", path], check=True, timeout=30)


def speeds(top: Path) -> dict[str, float]:
    """Of each operation, times in a second; leaves nothing behind."""
    found: dict[str, float] = {}

    def measure(what: str, work: Callable[[str], object], items: list[str]) -> None:
        start = time.perf_counter()
        for item in items:
            work(item)
        found[what] = len(items) / (time.perf_counter() - start)

    place = top / "place"
    place.mkdir()
    names = [os.fspath(place / f"file-{number}") for number in range(SMALL_FILES)]
    chunk = bytes(MIB)
    measure("create", lambda path: create(path, chunk[:BLOCK]), names)
    measure("open and read", read, names)
    measure("rename", lambda path: os.rename(path, path + "x"), names)
    measure("unlink", lambda path: os.unlink(path + "x"), names)
    with (place / "large").open("wb", buffering=0) as file:
        start = time.perf_counter()
        for _ in range(WRITES):
            file.write(chunk)
        os.fsync(file.fileno())
        found["sequential write"] = WRITES / (time.perf_counter() - start)
    (place / "large").unlink()
    place.rmdir()
    return found


@pytest.mark.volume(size="256M")
def test_it_is_several_times_slower_than_a_filesystem_that_does_nothing(
    mounted, empty_filesystem: Path
) -> None:
    best: dict[Path, dict[str, float]] = {mounted.path: {}, empty_filesystem: {}}
    ratios: dict[str, float] = {}
    for _ in range(TRIES):
        for top, fastest in best.items():
            for what, speed in speeds(top).items():
                fastest[what] = max(speed, fastest.get(what, 0))
        ratios = {
            what: speed / best[empty_filesystem][what] for what, speed in best[mounted.path].items()
        }
    print(ratios)
    assert not {what: ratio for what, ratio in ratios.items() if ratio < AT_LEAST[what]}
