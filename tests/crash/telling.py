"""Tells all stories without an oracle, and prints what they left.

``python -m tests.crash.telling SEED CACHE GROUPS SECONDS``: a cache of so many blocks and
groups (0: as ever), with a clock that is wrong by so many seconds. One JSON object comes out: by
story, what each flush made durable, as digests, and how often the cache had not what was asked for.
"""

from __future__ import annotations

import json
import sys
import time
from unittest import mock

import xxhash

from snapfs.store.space import groups as in_memory
from snapfs.store.trees import block_store
from tests.crash import scenarios

#: A call that is interrupted may have made blocks writable already, for which the next commit needs
#: as many more. On a volume that is nearly full a small cache so makes that commit come earlier:
#: these stories are told with as much cache as ever.
NEARLY_FULL = {"autodeletion"}


def digest(writes: list[tuple[int, bytes]]) -> str:
    """Of contents and where they are."""
    found = xxhash.xxh3_64()
    for place, content in writes:
        found.update(place.to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


def told(seed: int, cache: int, groups: int) -> dict[str, tuple[list[str], int]]:
    """By story, digests of the writes before each flush, and the misses of the cache."""
    found = {}
    usual = block_store.CACHE_BYTES
    for name, (story, blocks) in scenarios.SCENARIOS.items():
        size = usual if name in NEARLY_FULL else cache * 4096 or usual
        with (
            mock.patch.object(scenarios, "dump", lambda _fs: {}),
            mock.patch.object(block_store, "CACHE_BYTES", size),
            mock.patch.object(in_memory, "GROUPS_KEPT", groups or in_memory.GROUPS_KEPT),
        ):
            stage = scenarios.Stage(blocks, seed=seed)
            story(stage)
        digests = [digest(sorted(stage.device.durable(0).pages.items()))]
        digests += [digest(segment.writes) for segment in stage.device.segments]
        found[name] = digests, stage.volume.cache.misses
    return found


def main(seed: str, cache: str, groups: str, seconds: str) -> None:
    now, wrong = time.time_ns, int(seconds) * 1_000_000_000
    with mock.patch("time.time_ns", lambda: now() + wrong):
        stories = told(int(seed), int(cache), int(groups))
    json.dump({"hash": hash("as every text"), "stories": stories}, sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
