"""The damage tests share modules that are no tests, some with the crash tests and the fuzzer;
pytest looks for none.
"""

import os
import sys

sys.path[:0] = [
    os.path.dirname(__file__),
    *(os.path.join(os.path.dirname(__file__), os.pardir, name) for name in ("crash", "fuzz")),
]
