"""The damage tests share modules that are no tests, some with the crash tests; pytest's importlib mode does not look beside a test for them."""

import os
import sys

sys.path[:0] = [os.path.dirname(__file__), os.path.join(os.path.dirname(__file__), os.pardir, "crash")]
