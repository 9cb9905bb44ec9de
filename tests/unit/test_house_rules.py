"""House rules of the code that a linter does not know: how long a module is, how many stand in one
folder, and that a class has its name alone.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import snapfs

PACKAGE = Path(snapfs.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LINES_MOST = 400
MODULES_MOST = 22


def test_the_rules_have_nothing_to_look_at() -> None:
    assert len(MODULES) > 300


def test_a_module_has_more_than_one_idea() -> None:
    """As far as its length says: what is longer is cut where its second idea begins."""
    lines = {path: len(path.read_text().splitlines()) for path in MODULES}
    long = [
        f"{path.relative_to(PACKAGE)}: {count} lines"
        for path, count in lines.items()
        if count > LINES_MOST
    ]
    assert not long, "\n".join(long)


def test_a_folder_is_no_table_of_contents() -> None:
    """Nobody finds what he looks for in more modules than fit on a screen."""
    counts = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    full = [
        f"{folder.relative_to(PACKAGE)}: {count} modules"
        for folder, count in counts.items()
        if count > MODULES_MOST
    ]
    assert not full, "\n".join(full)


def test_two_classes_have_one_name() -> None:
    """Private ones too: a reader who searches for a name finds one thing."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    double = [f"{name}: {', '.join(where)}" for name, where in places.items() if len(where) > 1]
    assert not double, "\n".join(double)
