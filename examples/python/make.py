"""Write the catalogue, a line of JSON for each row: ``python make.py FILE ROWS``. Needs numpy."""

import json
import sys
from pathlib import Path

import numpy as np

random = np.random.default_rng(1)
with Path(sys.argv[1]).open("w") as file:
    for number in range(int(sys.argv[2])):
        vector = [round(float(it), 4) for it in random.standard_normal(128)]
        text = random.bytes(150).hex()
        row = {"name": f"row {number}", "text": text, "tags": [number, number * 2, "tag"]}
        file.write(json.dumps({**row, "vector": vector}) + "\n")
