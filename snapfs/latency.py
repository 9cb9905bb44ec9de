"""How long things take: histograms of durations, in buckets whose width grows with what they count.

A bucket is a quarter of a microsecond wide at first; from 8 us on there are sixteen in each power
of two, so that a figure that is read from a bucket is at most a sixteenth too high. A histogram
takes some kilobytes, whatever is noted.

This is not the package ``hdrhistogram``, which does the same and is kept well: it takes 1.2 us for
each value where this takes 0.1, and a request, of which many take 20, must not become dearer by a
hundredth; and with what it installs, pbr and setuptools, it weighs 9 MB.

Knows nothing of what it counts. Not safe for threads that note into one histogram at a time: a
count may be lost, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

#: Units in a second: what durations are counted in.
UNITS: Final = 4e6

#: Buckets in each power of two, as a power of two.
_BITS: Final = 4

#: The largest duration that has a bucket of its own, in units, as a power of two: 4.7 hours.
_MOST_BITS: Final = 36

_BUCKETS: Final = (_MOST_BITS - _BITS + 1) << _BITS


def bucket_of(units: int) -> int:
    """The bucket of a duration in units."""
    shift = max(0, units.bit_length() - _BITS - 1)
    return min((shift << _BITS) + (units >> shift), _BUCKETS - 1)


def end_of(bucket: int) -> float:
    """The least duration that is too long for a bucket, in seconds."""
    shift = max(0, (bucket >> _BITS) - 1)
    return (bucket - (shift << _BITS) + 1 << shift) / UNITS


#: The buckets of durations below a millisecond, for who counts without a call: in
#: ``counts[SHORT[int(seconds * UNITS)]]``, and by ``Histogram.note`` where that raises
#: ``IndexError``.
SHORT: Final = tuple(bucket_of(units) for units in range(4096))


class Histogram:
    """Durations of one kind. ``counts`` has a number for each bucket; at first, nothing at all."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        #: The longest of those that are not counted by ``SHORT``, in seconds.
        self._longest = 0.0

    def note(self, seconds: float) -> None:
        """Count a duration."""
        if not self.counts:
            # In place: who counts without a call has this very list.
            self.counts.extend([0] * _BUCKETS)
        self.counts[bucket_of(int(seconds * UNITS))] += 1
        self._longest = max(self._longest, seconds)

    @property
    def total(self) -> int:
        """How many were noted."""
        return sum(self.counts)

    def buckets(self) -> Iterator[tuple[float, int]]:
        """The end of each bucket with anything in it, in seconds, and how many, in order."""
        return ((end_of(bucket), count) for bucket, count in enumerate(self.counts) if count)

    def summary(self) -> dict[str, Any]:
        """Figures for people and programs, in microseconds: never lower than what is true.

        ``p50_us``, ``p99_us`` and ``p999_us`` are what one half, 99 and 99.9 of a hundred do not
        exceed. ``buckets`` has pairs, of an end and a count.
        """
        buckets = list(self.buckets())
        total = sum(count for _, count in buckets)
        found: dict[str, Any] = {"count": total}
        top = buckets[-1][0] if buckets else 0.0
        longest = min(top, self._longest) if self._longest * UNITS >= len(SHORT) else top
        for name, share in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)):
            found[name] = _micro(min(_quantile(buckets, share * total), longest))
        found["max_us"] = _micro(longest)
        found["buckets"] = [[_micro(end), count] for end, count in buckets]
        return found


def _quantile(buckets: list[tuple[float, int]], rank: float) -> float:
    """The end of the bucket in which that many are reached."""
    seen = 0
    for end, count in buckets:
        seen += count
        if seen >= rank:
            return end
    return 0.0


def _micro(seconds: float) -> float:
    return round(seconds * 1e6, 2)
