"""Write a catalogue, FILE.json and FILE.npy: ``python make.py FILE ROWS``. Needs numpy."""

import json
import sys
from pathlib import Path

import numpy as np

file, rows = sys.argv[1], int(sys.argv[2])
random = np.random.default_rng(1)
np.save(f"{file}.npy", random.standard_normal((rows, 128), np.float32))
with Path(f"{file}.json").open("w") as lines:
    for number in range(rows):
        row = {"name": f"row {number}", "text": random.bytes(150).hex(), "tags": [number, "tag"]}
        lines.write(json.dumps(row) + "\n")
