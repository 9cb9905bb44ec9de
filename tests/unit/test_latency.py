"""Histograms of durations: figures that are too low would hide what is slow."""

from __future__ import annotations

import random

import pytest

from snapfs.latency import SHORT, UNITS, Histogram, bucket_of, end_of


def test_buckets_follow_one_another_without_a_gap() -> None:
    """Every duration lies below the end of its bucket, and not below that of the one before."""
    edges = {(1 << bit) + step for bit in range(36) for step in (-1, 0, 1)}
    for units in sorted(edges | set(range(5000))):
        bucket = bucket_of(units)
        assert units < end_of(bucket) * UNITS
        assert bucket == 0 or units >= end_of(bucket - 1) * UNITS
    assert list(SHORT) == [bucket_of(units) for units in range(len(SHORT))]


def test_a_bucket_is_at_most_a_sixteenth_wide() -> None:
    for bucket in range(32, bucket_of(1 << 35)):
        assert end_of(bucket) <= end_of(bucket - 1) * (1 + 1 / 16) * (1 + 1e-12)


def test_figures_are_not_below_the_truth_and_a_sixteenth_above_it_at_most() -> None:
    chance = random.Random(15)
    values = sorted(chance.lognormvariate(-9, 2) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.note(value)
    figures = histogram.summary()
    assert figures["count"] == histogram.total == len(values)
    for name, share in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)):
        true = values[int(share * len(values)) - 1] * 1e6
        assert true <= figures[name] + 0.01 <= true * (1 + 1 / 16) + 0.3, name
    assert figures["max_us"] == pytest.approx(values[-1] * 1e6, abs=0.01)
    assert sum(count for _, count in figures["buckets"]) == len(values)


def test_nothing_noted_and_what_is_too_long_for_any_bucket() -> None:
    histogram = Histogram()
    assert histogram.summary() == {
        "count": 0, "p50_us": 0, "p99_us": 0, "p999_us": 0, "max_us": 0, "buckets": []
    }  # fmt: skip
    histogram.note(0.0)
    histogram.note(1e9)
    assert histogram.total == 2
    assert len(histogram.counts) < 600  # memory does not grow with what is noted
    assert histogram.summary()["p50_us"] == 0.25


def test_who_counts_without_a_call_counts_into_the_same_buckets() -> None:
    one, other = Histogram(), Histogram()
    counts = one.counts
    for seconds in (3e-6, 1e-5, 1e-4, 9e-4, 5e-3):
        other.note(seconds)
        try:
            counts[SHORT[int(seconds * UNITS)]] += 1
        except IndexError:
            one.note(seconds)
    assert one.summary()["buckets"] == other.summary()["buckets"]
    assert one.summary()["max_us"] == 5000
