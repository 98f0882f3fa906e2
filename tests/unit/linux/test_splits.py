"""What splitting a huge page does: the oracle is this kernel's count of resident pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pagemerge.linux.splits import frees_zeros

LOOK = """
import mmap, re
from pathlib import Path
HUGE, PAGE = 2 << 20, 4096

def resident():
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous: +(\\d+)", text, re.M)[1])

def touched(memory):
    before = resident()
    for at in range(0, len(memory), HUGE):
        memory[at] = 1
    return resident() - before

memory = mmap.mmap(-1, 8 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
grown = touched(memory)
before = resident()
for at in range(0, len(memory), PAGE):
    memory.madvise(mmap.MADV_FREE, at, PAGE) if at // PAGE % 2 else None
print(grown, before - resident())
"""


def test_the_answer_is_what_the_kernel_does() -> None:
    grown, freed = map(int, subprocess.check_output([sys.executable, "-c", LOOK]).split())
    if grown < 1024:
        pytest.skip("this host gives out no huge pages")
    # Half of the pages are freed lazily and count as resident until memory is short.
    answer = frees_zeros()
    assert answer is not None
    assert answer == (freed > grown // 4)


def test_it_leaves_nothing_behind() -> None:
    def mappings() -> int:
        return len(Path("/proc/self/maps").read_bytes().splitlines())

    frees_zeros()
    before = mappings()
    for _ in range(20):
        frees_zeros()
    assert mappings() <= before + 1
