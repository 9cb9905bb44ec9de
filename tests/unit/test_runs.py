"""The map of runs: maximal runs, split and joined exactly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapfs.store.space.runs import RunMap

SPAN = 40

assignments = st.lists(
    st.tuples(st.integers(0, SPAN), st.integers(1, 12), st.one_of(st.none(), st.integers(1, 3))),
    max_size=25,
)


def runs_of(expected: dict[int, int]) -> list[tuple[int, int, int]]:
    """The maximal runs of a plain dict."""
    out: list[list[int]] = []
    for position in sorted(expected):
        if out and out[-1][0] + out[-1][1] == position and out[-1][2] == expected[position]:
            out[-1][1] += 1
        else:
            out.append([position, 1, expected[position]])
    return [(start, length, value) for start, length, value in out]


@settings(deadline=None, database=None, max_examples=300)
@given(assignments)
def test_runs_differ_from_a_plain_dict(steps: list[tuple[int, int, int | None]]) -> None:
    """B5, B6: whatever is assigned, the runs are the maximal runs of what a dict says."""
    runs, expected = RunMap(), {}
    for start, length, value in steps:
        runs.assign(start, start + length, value)
        for position in range(start, start + length):
            expected.pop(position, None)
            if value is not None:
                expected[position] = value
        assert list(runs) == runs_of(expected)
        assert len(runs) == len(runs_of(expected))
    assert [runs.get(position) for position in range(SPAN + 15)] == [
        expected.get(position) for position in range(SPAN + 15)
    ]
    assert list(RunMap(iter(runs))) == list(runs)


@pytest.mark.parametrize("before", [1, 2, None])
@pytest.mark.parametrize("behind", [1, 2, None])
def test_a_gap_is_not_filled_to_maximal_runs(before: int | None, behind: int | None) -> None:
    """B5: with what lies beside it, on one side, on both, or on none; which random runs seldom
    meet.
    """
    runs, expected = RunMap(), dict.fromkeys(range(10, 15), 1)
    for low, value in ((5, before), (15, behind)):
        runs.assign(low, low + 5, value)
        expected.update(dict.fromkeys(range(low, low + 5), value) if value is not None else {})
    runs.assign(10, 15, 1)
    assert list(runs) == runs_of(expected)


@settings(deadline=None, database=None, max_examples=200)
@given(assignments, st.integers(0, SPAN), st.integers(1, SPAN))
def test_pieces_have_gaps_or_overlap(
    steps: list[tuple[int, int, int | None]], start: int, length: int
) -> None:
    """B6: the pieces of a range cover it exactly, gaps included, and say
    what each position says.
    """
    runs = RunMap()
    for low, size, value in steps:
        runs.assign(low, low + size, value)
    pieces = runs.pieces(start, start + length)
    assert [low for low, _, _ in pieces] == [start, *(high for _, high, _ in pieces[:-1])]
    assert pieces[-1][1] == start + length
    assert all(
        low < high and {runs.get(position) for position in range(low, high)} == {value}
        for low, high, value in pieces
    )
    assert runs.after(start, 3) == [run for run in runs if run[0] >= start][:3]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ((10, 12), [(10, 2, 2), (12, 8, 1)]),
        ((14, 16), [(10, 4, 1), (14, 2, 2), (16, 4, 1)]),
        ((18, 20), [(10, 8, 1), (18, 2, 2)]),
        ((10, 20), [(10, 10, 2)]),
    ],
    ids=["start", "middle", "end", "all"],
)
def test_a_write_into_a_run_damages_its_neighbours(
    at: tuple[int, int], expected: list[tuple[int, int, int]]
) -> None:
    """B6: a write at a run's start, middle or end splits it into exactly what is left of it; taking
    it back joins it again.
    """
    runs = RunMap([(10, 10, 1)])
    runs.assign(*at, 2)
    assert list(runs) == expected
    runs.assign(*at, 1)
    assert list(runs) == [(10, 10, 1)]


@pytest.mark.parametrize(
    ("at", "expected"),
    [((10, 12), [(12, 8, 1)]), ((14, 16), [(10, 4, 1), (16, 4, 1)]), ((18, 20), [(10, 8, 1)])],
    ids=["start", "middle", "end"],
)
def test_removal_takes_too_much_or_too_little(
    at: tuple[int, int], expected: list[tuple[int, int, int]]
) -> None:
    """B6: what is removed leaves the rest of the run as it was."""
    runs = RunMap([(10, 10, 1)])
    runs.assign(*at, None)
    assert list(runs) == expected
