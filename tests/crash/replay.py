"""Judge one crash state alone: ``python tests/crash/replay.py NAME:SEED:SEGMENT:ARRIVED:TORN``, as
a failing test prints it.
"""

from __future__ import annotations

import os
import sys


def main(identity: str) -> None:
    """Raises what the state fails with."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:0] = [here, os.path.dirname(os.path.dirname(here))]
    import copy_states
    import run_states
    from copy_stories import STORIES

    (copy_states if identity.split(":")[0] in STORIES else run_states).replay(identity)
    print("This state is whole: what was promised is there, and the checker finds nothing.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
