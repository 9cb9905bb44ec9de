"""What ``make coverage`` measured, by package: lines that ran, of those that can.

``python -m tests.harness.coverage_table`` prints the table for the data of the last measurement.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: File, lines that can run, those of them that have not.
Measured = tuple[str, int, int]


def measured() -> list[Measured]:
    """Every module of snapfs, also those that nothing has loaded."""
    import coverage  # what only sums up does without

    data = coverage.Coverage(config_file=str(ROOT / "pyproject.toml"))
    data.load()
    found = []
    for path in sorted((ROOT / "snapfs").rglob("*.py")):
        _, lines, _, missing, _ = data.analysis2(str(path))
        found.append((path.relative_to(ROOT).as_posix(), len(lines), len(missing)))
    return found


def package(path: str) -> str:
    """The folder that a module is in, as one imports it."""
    return path.rpartition("/")[0].replace("/", ".")


def table(modules: Iterable[Measured]) -> list[str]:
    """A line for each package and one for all, with its modules of which least has run."""
    modules = list(modules)
    sums: dict[str, list[int]] = {package(path): [0, 0] for path, _, _ in modules}
    worst: dict[str, tuple[float, str]] = {}
    for path, lines, missing in modules:
        for name in (package(path), "all"):
            one = sums.setdefault(name, [0, 0])
            one[0] += lines
            one[1] += missing
        if missing:
            part = missing / lines, path.rpartition("/")[2]
            worst[package(path)] = max(worst.get(package(path), (0.0, "")), part)
    out = []
    for name, (lines, missing) in sums.items():
        if lines:
            note = f"least in {worst[name][1]}" if name in worst else ""
            share = 100 * (lines - missing) / lines
            out.append(f"{name:28} {lines:6} lines {share:6.1f} %  {note}".rstrip())
    return out


def main() -> None:
    now = datetime.now(UTC)
    print(f"Lines that ran in tests without a mount, measured {now:%Y-%m-%d %H:%M} UTC:")
    print("\n".join(table(measured())))


if __name__ == "__main__":
    main()
