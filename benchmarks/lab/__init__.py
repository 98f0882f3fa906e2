"""What the benchmarks share: a private hub, workers, guests, loads.

A benchmark runs as a script, so Python looks for modules in this folder only: ``tests.support`` is
found through the root of the checkout.
"""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[2])
if _ROOT not in sys.path:
    sys.path.append(_ROOT)
