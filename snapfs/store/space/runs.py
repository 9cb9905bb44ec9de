"""A map from ranges to values that keeps maximal runs: the pairs of pointers that describe
unchanged spans (B5, B6).

It knows nothing of blocks or holders; a property test compares it with a plain dict.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

Run = tuple[int, int, int]  # start, length, value


class RunMap:
    """Disjoint runs ``(start, length, value)``, ordered; neighbours with one value are one run.
    Values are never None.
    """

    __slots__ = ("_ends", "_starts", "_values")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._values: list[int] = []
        for start, length, value in runs:
            if self._ends and self._ends[-1] == start and self._values[-1] == value:
                self._ends[-1] = start + length
            else:
                self._starts.append(start)
                self._ends.append(start + length)
                self._values.append(value)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Run]:
        for start, end, value in zip(self._starts, self._ends, self._values, strict=True):
            yield start, end - start, value

    @property
    def columns(self) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """All runs by columns: where they start, where they end, their values."""
        return self._starts, self._ends, self._values

    def get(self, position: int) -> int | None:
        """The value at ``position``, None where there is no run."""
        index = bisect_right(self._starts, position) - 1
        if index >= 0 and position < self._ends[index]:
            return self._values[index]
        return None

    def after(self, position: int, limit: int) -> list[Run]:
        """At most ``limit`` runs that begin at ``position`` or behind it."""
        first = bisect_left(self._starts, position)
        last = first + limit
        return [
            (start, end - start, value)
            for start, end, value in zip(
                self._starts[first:last],
                self._ends[first:last],
                self._values[first:last],
                strict=True,
            )
        ]

    def pieces(self, start: int, end: int) -> list[tuple[int, int, int | None]]:
        """Cut ``start`` to ``end`` into (start, end, value), with None for the gaps."""
        starts, ends, values = self._starts, self._ends, self._values
        index = bisect_right(starts, start) - 1
        if index < 0 or ends[index] <= start:
            index += 1
            if index == len(starts) or starts[index] >= end:
                return [(start, end, None)]
        elif ends[index] >= end:
            return [(start, end, values[index])]
        out: list[tuple[int, int, int | None]] = []
        position = start
        while index < len(starts) and starts[index] < end:
            if starts[index] > position:
                out.append((position, starts[index], None))
                position = starts[index]
            stop = min(ends[index], end)
            out.append((position, stop, values[index]))
            position = stop
            index += 1
        if position < end:
            out.append((position, end, None))
        return out

    def assign(self, start: int, end: int, value: int | None) -> None:
        """Give ``start`` to ``end`` one value; None removes what is there. Runs at the borders are
        split or joined.
        """
        starts, ends, values = self._starts, self._ends, self._values
        behind = bisect_left(starts, start)
        first = behind - 1
        if (first < 0 or ends[first] <= start) and (behind == len(starts) or starts[behind] >= end):
            if value is not None and start < end:
                self._fill(behind, start, end, value)
            return
        if first < 0 or ends[first] < start:
            first = behind
        last = first
        new: list[Run] = []
        while last < len(starts) and starts[last] <= end:
            if starts[last] < start:
                new.append((starts[last], min(ends[last], start), values[last]))
            last += 1
        if value is not None:
            new.append((start, end, value))
        if last > first and ends[last - 1] > end:
            new.append((max(starts[last - 1], end), ends[last - 1], values[last - 1]))
        joined: list[list[int]] = []
        for low, high, kind in new:
            if joined and joined[-1][1] == low and joined[-1][2] == kind:
                joined[-1][1] = high
            elif low < high:
                joined.append([low, high, kind])
        starts[first:last] = [run[0] for run in joined]
        ends[first:last] = [run[1] for run in joined]
        values[first:last] = [run[2] for run in joined]

    def _fill(self, behind: int, start: int, end: int, value: int) -> None:
        """``assign`` where there is no run yet, before the run with the index ``behind``: what
        happens most, by far.
        """
        starts, ends, values = self._starts, self._ends, self._values
        joins_before = behind > 0 and ends[behind - 1] == start and values[behind - 1] == value
        if behind < len(starts) and starts[behind] == end and values[behind] == value:
            if not joins_before:
                starts[behind] = start
                return
            ends[behind - 1] = ends[behind]
            del starts[behind], ends[behind], values[behind]
        elif joins_before:
            ends[behind - 1] = end
        else:
            starts.insert(behind, start)
            ends.insert(behind, end)
            values.insert(behind, value)
