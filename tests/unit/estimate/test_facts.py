"""Facts of processes as built /proc trees tell them, and as an enemy would write these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemerge.errors import AccessDenied, NoSuchProcess, PagemergeError
from pagemerge.estimate.facts import Facts, Saves, facts
from pagemerge.estimate.obstacles import reasons
from pagemerge.estimate.scanning import Ksmd, ksmd
from pagemerge.estimate.shares import Share
from pagemerge.find.process import Process
from pagemerge.find.sources import ProcessSource
from pagemerge.find.survey import Row
from pagemerge.linux.ksm import Ksm
from pagemerge.linux.maps import Mapping
from tests.support import hostile

PID = 7
KB = 1024
SMAPS = b"""\
1000-5000 rw-p 00000000 00:00 0
AnonHugePages:         8 kB
KSM:                   4 kB
VmFlags: rd wr mg
5000-9000 rw-p 00000000 00:00 0  [heap]
AnonHugePages:         0 kB
VmFlags: rd wr lo
9000-b000 rw-s 00000000 00:01 3  /memfd:x
VmFlags: rd wr lo
"""
STATUS = b"Name:\tx\nTgid:\t7\nUid:\t0\t0\t0\t0\nVmLck:\t 44 kB\nVmPin:\t 8 kB\nVmSwap:\t 4 kB\n"
FILES: dict[str, object] = {
    "smaps": SMAPS,
    "status": STATUS,
    "ksm_stat": b"ksm_rmap_items 0\nksm_merge_any: no\nksm_mergeable: yes\n",
    "cmdline": b"/usr/bin/qemu-system-x86_64\0-name\0web\0",
    "cgroup": b"0::/system.slice/web.service\n",
}


def mapping(start: int, end: int, path: str = "") -> Mapping:
    return Mapping(start, end, "rw-p", "00:00", 0, path)


SOURCE = ProcessSource(
    Process(PID, "x", 0), 3, [mapping(0x1000, 0x5000), mapping(0x5000, 0x9000, "[heap]")]
)
SHARE = Share(np.array([12.0 * KB, 5.0 * KB]), 3 * KB, 1, True)
ROW = Row("x", PID, 0, "uid 0", pages=8, zero_pages=1, duplicate_pages=3, ineligible={"a": 1})


def known(root: Path, check: object = None, details: bool = True, **files: object) -> Facts:
    hostile.write(root, {})
    hostile.add(root / str(PID), {**FILES, **files})

    def refuses(_pid: int) -> None:
        if isinstance(check, Exception):
            raise check

    return facts(SOURCE, ROW, SHARE, proc=root, check=refuses, details=details)


def test_everything_is_found_and_put_together(tmp_path: Path) -> None:
    found = known(tmp_path)
    assert found.saves == Saves(17 * KB, 5 * KB, 8 * KB, 5 * KB, 5 * KB)
    assert found.unique_bytes == (8 - 1 - 3 - 1) * 4096
    assert (found.elsewhere_bytes, found.alone, found.domain) == (3 * KB, True, "uid 0")
    assert (found.merged_bytes, found.ineligible_bytes) == (4 * KB, {"a": 1})
    assert found.locked_bytes == 24 * KB
    assert found.pinned_bytes == (8 + 44 - 24) * KB, "locked by no mapping: vfio"
    assert found.swapped_bytes == 4 * KB
    assert found.machine and found.machine.guest == "web"
    assert (found.unit, found.opted_out, found.refusal) == ("web.service", False, "")


def test_without_details_the_marks_are_those_of_the_whole_process(tmp_path: Path) -> None:
    found = known(tmp_path, details=False, smaps=None)
    assert found.saves == Saves(17 * KB, heap_bytes=5 * KB)
    assert (found.locked_bytes, found.pinned_bytes) == (0, 8 * KB)
    none = b"ksm_merge_any: no\nksm_mergeable: no\n"
    assert known(tmp_path, details=False, ksm_stat=none).saves.unmarked_bytes == 17 * KB


@pytest.mark.parametrize(
    ("stat", "out"),
    [
        (b"ksm_rmap_items 9\nksm_merge_any: no\nksm_mergeable: no\n", True),
        (b"ksm_rmap_items 0\nksm_merge_any: no\nksm_mergeable: no\n", False),
        (b"ksm_rmap_items 9\nksm_merge_any: no\nksm_mergeable: yes\n", False),
        (b"ksm_rmap_items 9\nksm_merge_any: no\n", False),
        (None, False),
    ],
)
def test_opted_out_is_what_ksmd_has_records_of(tmp_path: Path, stat: object, out: bool) -> None:
    assert known(tmp_path, ksm_stat=stat).opted_out is out


def test_a_process_that_cannot_be_attached(tmp_path: Path) -> None:
    # explain() asks whether the process lives: one that does, for sure.
    refused = known(tmp_path, PagemergeError("process 7 is traced: end that"))
    assert refused.refusal
    whole = SMAPS.replace(b"lo", b"mg")
    marked = known(tmp_path, PagemergeError("never asked"), smaps=whole)
    assert marked.refusal == "", "nothing would be gained"
    with pytest.raises(NoSuchProcess):
        known(tmp_path, NoSuchProcess("gone"))
    assert known(tmp_path, AccessDenied("no")).refusal


def test_zeros_that_ksmd_has_mapped_away_are_merged(tmp_path: Path) -> None:
    found = known(tmp_path, ksm_stat=b"ksm_zero_pages 3\nksm_mergeable: yes\n")
    assert (found.zeros_bytes, found.merged_bytes) == (12 * KB, 16 * KB)
    assert known(tmp_path, ksm_stat=b"ksm_zero_pages -3\n").zeros_bytes == 0


def test_the_user_engine_is_told_by_all_mappings(tmp_path: Path) -> None:
    library = b"f000-10000 r-xp 00000000 00:01 3  /x/libpagemerge_preload.so\n"
    assert "pagemerge run" in known(tmp_path, smaps=SMAPS + library).user_engine


def test_a_process_that_has_ended_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoSuchProcess):
        facts(SOURCE, ROW, SHARE, proc=tmp_path)


LINES = [
    *(b"VmLck:\t4 kB", b"VmPin:\t-1 kB", b"VmSwap:\tx kB", b"AnonHugePages: 99999999999999 kB"),
    *(b"VmFlags: mg lo", b"VmFlags:", b"5000-9000 rw-p 00000000 00:00 0 [heap]", b"KSM: 1_0 kB"),
    *(b"1000-5000 rw-p 00000000 00:00 0", b"ksm_rmap_items 3", b"ksm_mergeable: no", b"ksm_"),
    *(b"qemu-system\0-object\0memory-backend-memfd,id=\x1b[2J\0-machine\0mem-merge=off",),
    *(b'kvm\0-object\0{"qom-type":"memory-backend-file","id":"\\u202e"}\0-device\0vfio',),
]
contents = st.one_of(
    hostile.contents, st.lists(st.sampled_from(LINES) | hostile.text(b"")).map(b"\n".join)
)
names = ["smaps", "status", "ksm_stat", "cmdline", "cgroup", "ksm_merging_pages", "task/8/comm"]
trees = st.dictionaries(st.sampled_from(names), contents)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with TemporaryDirectory(prefix="pagemerge-hostile-") as folder:
        yield Path(folder)


@given(trees, hostile.text(b"").map(hostile.text_of), st.booleans())
@settings(max_examples=200)
def test_hostile_trees_give_reasons_that_can_be_printed(
    root: Path, tree: dict[str, object], refusal: str, details: bool
) -> None:
    with suppress(PagemergeError):  # what it may raise
        found = known(root, PagemergeError(refusal), details, **tree)
        for reason in reasons(found, Ksmd()):
            assert reason.bytes > 0
            assert len(reason.text) < 6 * 4096 + 300
            hostile.assert_plain(reason.text + reason.cure)


@given(st.dictionaries(st.sampled_from([*hostile.OF_SYS, "sleep_millisecs"]), hostile.contents))
def test_hostile_settings_of_ksmd_are_no_error(root: Path, tree: dict[str, object]) -> None:
    hostile.write(root / "sys", tree)
    found = ksmd(5, Ksm(root / "sys", root))
    assert found.marked_pages >= 5
    assert found.seconds >= 0 and found.pages_per_second >= 0
    assert found.pace.isprintable()
    found.stands  # noqa: B018
