"""smaps and status, as files that were made by hand, and of real processes."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from pagemerge.errors import NoSuchProcess, PagemergeError
from pagemerge.linux import smaps
from pagemerge.linux.smaps import Held, Piece, held, pieces

SMAPS = b"""\
1000-5000 rw-p 00000000 00:00 0
Size:                 16 kB
Anonymous:            12 kB
AnonHugePages:         8 kB
KSM:                   4 kB
Locked:                0 kB
VmFlags: rd wr mr mw me ac mg
5000-6000 rw-p 00000000 00:01 7  /x AnonHugePages: 99 kB
AnonHugePages:     x kB
VmFlags: rd wr lo
7000-8000 r--p 00000000 00:01 7  /VmFlags: mg lo
KSM:                  -4 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
VmFlags: mg lo
"""


def write(root: Path, name: str, data: bytes) -> Path:
    (root / "7").mkdir(exist_ok=True)
    (root / "7" / name).write_bytes(data)
    return root


def test_fields_belong_to_their_mapping(tmp_path: Path) -> None:
    found = pieces(7, write(tmp_path, "smaps", SMAPS))
    assert [it.mapping.start for it in found] == [0x1000, 0x5000, 0x7000]
    rest = [(it.huge_bytes, it.merged_bytes, it.mergeable, it.locked) for it in found]
    assert rest == [(8192, 4096, True, False), (0, 0, False, True), (0, 0, False, False)]
    assert [it.anonymous_bytes for it in found] == [12288, 0, 0]
    assert found[1].mapping.path == "/x AnonHugePages: 99 kB"


@pytest.mark.parametrize("data", [b"x\n", b"1000-2000 rw-p\n", b"\n"])
def test_what_is_no_list_of_mappings_is_an_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PagemergeError, match=r"smaps is not as proc\(5\)"):
        pieces(7, write(tmp_path, "smaps", data))
    assert pieces(7, write(tmp_path, "smaps", b"")) == []


def test_what_a_process_holds(tmp_path: Path) -> None:
    status = b"Name:\tVmPin: 9 kB\nVmLck:\t    12 kB\nVmPin:\t     8 kB\nVmSwap:\t -4 kB\n"
    assert held(7, write(tmp_path, "status", status)) == Held(12 * 1024, 8 * 1024, 0)
    assert held(7, write(tmp_path, "status", b"Name:\tx\n")) == Held()
    with pytest.raises(NoSuchProcess):
        held(8, tmp_path)


def test_this_process_as_the_kernel_has_it() -> None:
    memory = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_MERGEABLE)
    memory.write(b"x" * (16 << 20))
    own = os.getpid()
    marked = [it.mapping.start for it in pieces(own) if it.mergeable]
    assert len(marked) == 1 and set(marked) == smaps.marked(own)
    assert not any(isinstance(it, Piece) and it.locked for it in pieces(own))
    memory.close()
