"""Write the data: ``python make.py FILE MEGABYTES``. Needs numpy."""

import sys

import numpy as np

path, shape = sys.argv[1], (64, 64, 3)
count = int(sys.argv[2]) * 10**6 // int(np.prod(shape))
np.save(path, np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8))
