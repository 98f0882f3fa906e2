"""Write the table: ``python make.py FILE MEGABYTES``. Needs numpy."""

import sys

import numpy as np

path, columns = sys.argv[1], 8
rows = int(sys.argv[2]) * 10**6 // (8 * columns)
np.save(path, np.random.default_rng(1).random((rows, columns)))
