"""Reading /proc/PID/maps, and what in it can be merged."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from pagemerge.errors import NoSuchProcess
from pagemerge.find import eligible, process
from pagemerge.linux import maps

MAPS = """\
55f0c0a00000-55f0c0a02000 r--p 00003000 fe:00 247774                     /usr/bin/with space
55f0c2000000-55f0c2021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0001000000-7f0001400000 rw-p 00000000 00:0f 4711                       /anon_hugepage (deleted)
7f0002000000-7f0002400000 rw-p 00000000 00:30 12                         /mnt/huge/file
7f0003000000-7f0003400000 rw-s 00000000 00:01 2                          /memfd:guest (deleted)
7f0004000000-7f0004400000 rw-p 00000000 00:01 3                          /memfd:pagemerge (deleted)
7f0005000000-7f0005400000 rw-s 00000000 00:05 9                          /dev/dri/card0
7f0006000000-7f0006400000 rw-s 00000000 00:01 9                          /dev/zero (deleted)
7f0007000000-7f0007400000 rw-s 00000000 fe:00 9                          /var/lib/db
7f0008000000-7f0008400000 ---p 00000000 00:00 0
7f0009000000-7f0009001000 rw-s 00000000 00:0e 13                         anon_inode:[io_uring]
7f000a000000-7f000a400000 rw-p 00000000 00:11 3                          /memfd:huge (deleted)
7ffd00000000-7ffd00004000 r--p 00000000 00:00 0                          [vvar]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""
MOUNTS = """\
25 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 25 0:48 / /mnt/huge rw,relatime shared:9 - hugetlbfs hugetlbfs rw,pagesize=2M
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "maps").write_text(MAPS)
    (tmp_path / "42" / "mountinfo").write_text(MOUNTS)
    (tmp_path / "42" / "status").write_text("Name:\tsomeone\nTgid:\t42\nUid:\t1\t2\t3\t4\n")
    (tmp_path / "42" / "cmdline").write_bytes(b"/opt/long/name-of-program\0-x\0")
    return tmp_path


def test_rows(proc: Path) -> None:
    found = maps.mappings(42, proc)
    assert found[0].path == "/usr/bin/with space"
    assert [mapping.offset for mapping in found[:2]] == [0x3000, 0]
    assert (found[2].start, found[2].end, found[2].path) == (0x7F0000000000, 0x7F0000400000, "")
    assert [mapping.slab for mapping in found].index(True) == 6
    assert all(mapping.path != "[vsyscall]" for mapping in found), "beyond pagemap"


def test_obstacles(proc: Path) -> None:
    known = maps.devices(42, proc)
    assert known.hugetlb == {"00:30"}
    known = maps.Devices(known.hugetlb, memfd="00:01")
    reasons = [eligible.obstacle(mapping, known) for mapping in maps.mappings(42, proc)]
    assert reasons == [
        *("", "", "", eligible.HUGETLB, eligible.HUGETLB, eligible.SHARED_MEMORY, ""),
        *(eligible.DEVICE, eligible.SHARED_MEMORY, eligible.SHARED_FILE, eligible.NO_ACCESS),
        *(eligible.DEVICE, eligible.HUGETLB),
        eligible.SPECIAL,
    ]
    assert set(reasons) - {""} <= set(eligible.REASONS)


def test_the_process_that_has_gone(proc: Path) -> None:
    with pytest.raises(NoSuchProcess) as caught:
        maps.mappings(43, proc)
    assert caught.value.pid == 43


def test_our_own_maps() -> None:
    found = maps.mappings(os.getpid())
    assert any(mapping.path == "[heap]" for mapping in found)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("word", ["42", "someone", "name-of-program"])
def test_names(proc: Path, word: str) -> None:
    assert process.named([word, word], proc) == [process.Process(42, "someone", 2)]


@pytest.mark.parametrize("word", ["43", "some", "-x"])
def test_unknown_names(proc: Path, word: str) -> None:
    with pytest.raises(NoSuchProcess, match="ps -e"):
        process.named([word], proc)
