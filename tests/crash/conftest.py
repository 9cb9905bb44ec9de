"""The crash tests share modules that are not tests; pytest's importlib mode does not look beside a
test for them.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
