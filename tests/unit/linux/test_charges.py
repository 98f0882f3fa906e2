"""What a process costs besides its pages, in folders that stand in for the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.errors import NoSuchProcess
from pagemerge.linux.charges import STACK_BYTES, Charges, charges

STATUS = "Name:\tx\nVmPTE:\t     100 kB\nRssShmem:\t      64 kB\nThreads:\t3\n"
ROLLUP = "1000-2000 ---p 00000000 00:00 0   [rollup]\nPss_Shmem:  16 kB\nAnonHugePages:  2048 kB\n"


def files(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / "7" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_every_part(tmp_path: Path) -> None:
    merged = {"ksm_merging_pages": "9\n", "ksm_stat": "ksm_rmap_items 1\nksm_zero_pages 4\n"}
    files(tmp_path, status=STATUS, smaps_rollup=ROLLUP, **merged)
    found = charges(7, proc=tmp_path)
    assert found == Charges(100 << 10, 3 * STACK_BYTES, 16 << 10, 2 << 20, 9, 4)
    assert found.bytes == (116 << 10) + 3 * STACK_BYTES


def test_an_older_kernel_has_fewer_files(tmp_path: Path) -> None:
    files(tmp_path, status=STATUS)
    assert charges(7, proc=tmp_path) == Charges(100 << 10, 3 * STACK_BYTES, 64 << 10)


def test_a_process_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NoSuchProcess):
        charges(7, proc=tmp_path)
