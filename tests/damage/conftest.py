"""The damage tests share a module that is no test; pytest's importlib mode does not look beside a test for it."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
