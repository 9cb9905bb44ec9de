"""Has every snapfs that a test starts held against what is set aside for commits: see
``harness/tally.py``.

Python runs a module of this name when it starts, if its directory is in ``PYTHONPATH``, where
``conftest.py`` puts it. ``SNAPFS_TALLY=0`` leaves processes alone. Nothing is loaded before the
core is about to be used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

#: What loads these has the core loaded, and is about to use it: a daemon, or a command for an image
#: that nobody has mounted.
_USERS = ("snapfs.fuse.mount.mounting", "snapfs.control.commands.offline")


class _BeforeUse(MetaPathFinder):
    """Finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        del path, target
        if fullname in _USERS:
            sys.meta_path.remove(self)
            from tests.harness import hits, tally

            hits.install()
            tally.install()


if os.environ.get("SNAPFS_TALLY") != "0":
    sys.meta_path.insert(0, _BeforeUse())
