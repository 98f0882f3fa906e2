"""Print commands that fill a Redis: ``python fill.py KEYS | redis-cli --pipe``.

Every key has a value of 400 random characters, the same each time.
"""

import random
import sys

source = random.Random(1)
for number in range(int(sys.argv[1])):
    sys.stdout.write(f"SET key:{number:012d} {source.randbytes(200).hex()}\r\n")
