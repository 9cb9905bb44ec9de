"""Coverage-guided fuzzing: of the decoders, of a volume that is opened, walked, changed and
checked, and of a daemon's commands.

``python -m tests.fuzz.fuzz {volume,decoders,control} SECONDS [DIRECTORY]``: inputs that reach
something new are collected in DIRECTORY. Ends with 0 when nothing failed in this time. What failed
is kept, and the command that runs it again is printed.

With atheris it is libFuzzer that chooses, by what code an input reaches. Without, inputs are
random: that finds less, and says so.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from snapfs.store.commit.recovery import open_volume
from tests.fuzz.rerun import report

#: What one input may take.
SECONDS, MEMORY = 20, 1 << 30

#: What holds for as long as this process lives.
_forging = contextlib.ExitStack()

#: Longest input, in bytes.
LENGTH = {"volume": 128, "decoders": 2048, "control": 400}


def target_of(name: str) -> Callable[[bytes], None]:
    """A function that runs one input. Imports what is fuzzed, so it must be called where that is
    instrumented.
    """
    if name == "control":
        return control()
    from tests.fuzz.forging import forged, limits
    from tests.fuzz.mutations import hostile
    from tests.fuzz.using import decode, use

    _forging.enter_context(forged())

    def run(data: bytes) -> None:
        with report(data, name), limits(SECONDS, MEMORY):
            if name == "volume":
                use(*hostile(data))
            else:
                decode(data)

    run(b"")  # makes the volumes, which takes longer than an input may
    return run


def control() -> Callable[[bytes], None]:
    """The same for requests to a daemon."""
    from tests.fuzz import asking
    from tests.fuzz.forging import limits

    ask = asking.target(_forging.enter_context(tempfile.TemporaryDirectory(prefix="snapfs-fuzz-")))

    def run(data: bytes) -> None:
        with report(data, "control"), limits(SECONDS, MEMORY):
            ask(data)

    return run


def guided(name: str, seconds: int, corpus: Path) -> None:
    """Let libFuzzer choose. Ends the process."""
    import atheris

    with atheris.instrument_imports(include=["snapfs"]):
        run = target_of(name)
    if not any(corpus.iterdir()):
        for number, data in enumerate(beginnings(name)):
            (corpus / f"beginning-{number}").write_bytes(data)

    def one(data: bytes) -> None:
        try:
            run(data)
        except BaseException as exc:
            print("\n".join(getattr(exc, "__notes__", [])), file=sys.stderr)
            raise

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LENGTH[name]}",
        f"-timeout={2 * SECONDS}",
        "-rss_limit_mb=3072",
        "-print_final_stats=1",
    ]
    # What libFuzzer itself writes on a failure is the same input; ours has the name that was
    # printed.
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={corpus}-", str(corpus)], one)
    atheris.Fuzz()


def check_forging() -> None:
    """A sound volume must open, or every input would be rejected at once and nothing would be
    tried.
    """
    from tests.fuzz.volumes import seed

    open_volume(seed(0).image.copy())


def beginnings(name: str) -> Iterator[bytes]:
    """Inputs to begin with: the metadata of sound volumes; any choices."""
    from tests.fuzz.using import DECODERS
    from tests.fuzz.volumes import SHAPES, seed

    chosen = random.Random(0)
    for number in range(len(SHAPES)):
        if name == "control":
            yield from (chosen.randbytes(100) for _ in range(16))
            return
        if name == "volume":
            yield from (bytes([number]) + chosen.randbytes(40) for _ in range(8))
            continue
        found = seed(number)
        for place in found.places:
            if place.kind in DECODERS:
                yield bytes([DECODERS[place.kind]]) + found.image.block(place.block)[
                    : LENGTH[name]
                ].rstrip(b"\0")


def random_inputs(name: str, seconds: int) -> None:
    """Without guidance."""
    run = target_of(name)
    if name != "control":
        check_forging()
    chosen = random.Random()
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        run(chosen.randbytes(chosen.randrange(LENGTH[name])))
        count += 1
    print(f"{name}: {count} random inputs, nothing found")


def main() -> None:
    """See the module."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    corpus = Path(sys.argv[3] if len(sys.argv) > 3 else f".fuzz/{name}")
    corpus.mkdir(parents=True, exist_ok=True)
    try:
        import atheris  # noqa: F401 - is it there?
    except ImportError:
        print(
            "atheris is not installed: inputs are random, not guided by coverage", file=sys.stderr
        )
        random_inputs(name, seconds)
        return
    guided(name, seconds, corpus)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
