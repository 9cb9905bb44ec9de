"""The model tests share modules that are not tests, some with the crash tests; pytest looks for
none beside a test.
"""

import os
import sys

sys.path[:0] = [
    os.path.dirname(__file__),
    os.path.join(os.path.dirname(__file__), os.pardir, "crash"),
]
