"""The table of what tests have run: nothing is left out, and the sums are those of the modules."""

from __future__ import annotations

from tests.harness.coverage_table import table


def test_a_package_that_nothing_has_loaded_is_not_seen() -> None:
    modules = [
        ("snapfs/a/one.py", 10, 0),
        ("snapfs/a/two.py", 30, 10),
        ("snapfs/b/three.py", 20, 20),
        ("snapfs/b/__init__.py", 0, 0),
    ]
    lines = table(modules)
    assert lines == [
        "snapfs.a                         40 lines   75.0 %  least in two.py",
        "snapfs.b                         20 lines    0.0 %  least in three.py",
        "all                              60 lines   50.0 %",
    ]
