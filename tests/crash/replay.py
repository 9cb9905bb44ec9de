"""Judge one crash state alone, as a failing test prints it:
``python -m tests.crash.replay NAME:SEED:SEGMENT:ARRIVED:TORN``.
"""

from __future__ import annotations

import sys

from tests.crash import copy_states, run_states
from tests.crash.copy_stories import STORIES


def main(identity: str) -> None:
    """Raises what the state fails with."""
    (copy_states if identity.split(":")[0] in STORIES else run_states).replay(identity)
    print("This state is whole: what was promised is there, and the checker finds nothing.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
