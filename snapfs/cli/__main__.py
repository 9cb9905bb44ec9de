"""``python -m snapfs.cli``: the command line without an installed script."""

import sys

from snapfs.cli.main import main

sys.exit(main())
