"""Inputs that fail: where they are kept, and the command that runs one again.

``python -m tests.fuzz.rerun {volume,decoders,control} FILE``
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def directory() -> Path:
    """Where failing inputs are kept, as images of failing checks are."""
    path = Path(os.environ.get("SNAPFS_KEEP") or Path(tempfile.gettempdir()) / "snapfs-kept")
    path.mkdir(parents=True, exist_ok=True)
    return path


def command(target: str, path: Path) -> str:
    """What runs an input again."""
    return f"{sys.executable} -m tests.fuzz.rerun {target} {path}"


@contextlib.contextmanager
def report(data: bytes, target: str, name: str = "") -> Iterator[None]:
    """When the block fails, keep the input and say how to run it again. With a name, the last one
    that failed is kept: the simplest.
    """
    try:
        yield
    except BaseException as exc:
        path = (
            directory()
            / f"{target}-{name or hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]}"
        )
        path.write_bytes(data)
        exc.add_note(f"To run it again: {command(target, path)}")
        raise


def main() -> None:
    """Run one input."""
    target, path = sys.argv[1:]
    data = Path(path).read_bytes()
    if target == "control":
        from tests.fuzz.fuzz import control

        control()(data)
        print(f"{path}: nothing wrong with it")
        return
    from tests.fuzz.forging import forged, limits
    from tests.fuzz.mutations import hostile
    from tests.fuzz.using import decode, use

    with forged(), limits(60, 1 << 30):
        if target == "decoders":
            decode(data)
        else:
            use(*hostile(data))
    print(f"{path}: nothing wrong with it")


if __name__ == "__main__":
    main()
