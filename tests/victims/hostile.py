"""A process whose name, arguments and mapped file are what an enemy would have them.

``hostile.py FILE``: everything is in FILE, hexadecimal lines: the name, the path to map.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

PR_SET_NAME = 15

name, path = (bytes.fromhex(line) for line in Path(sys.argv[1]).read_text().split())
ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)
own = bytearray(b"x" * 8_000_000)
file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
os.ftruncate(file, mmap.PAGESIZE)
mapped = mmap.mmap(file, mmap.PAGESIZE, prot=mmap.PROT_READ)
print("ready", flush=True)
sys.stdin.read()
