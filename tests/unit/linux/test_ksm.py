"""The rules of kernel KSM's knobs and the readers of its accounts, on folders that stand for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pagemerge.errors import NoSuchProcess, PagemergeError, Unsupported, UsageError
from pagemerge.linux import ksm as kernel
from pagemerge.linux.knobs import Knobs, in_order, restoring
from pagemerge.linux.ksm import Ksm, KsmCounters, ProcessKsm

FOUND = {
    "run": "1",
    "pages_to_scan": "500",
    "sleep_millisecs": "20",
    "merge_across_nodes": "1",
    "max_page_sharing": "256",
    "stable_node_chains_prune_millisecs": "2000",
    "use_zero_pages": "0",
    "smart_scan": "1",
    "advisor_mode": "none [scan-time]",
    "advisor_max_cpu": "70",
    "advisor_min_pages_to_scan": "500",
    "advisor_max_pages_to_scan": "30000",
    "advisor_target_scan_time": "200",
    "full_scans": "7",
    "pages_shared": "3",
    "pages_sharing": "40",
    "general_profit": "-128",
}
REFUSES = Path("/proc/sys/kernel/ngroups_max")
"""A number of the kernel's that nobody can write, root neither."""


@pytest.fixture
def ksm(tmp_path: Path) -> Ksm:
    root = tmp_path / "ksm"
    root.mkdir()
    for name, text in FOUND.items():
        (root / name).write_text(f"{text}\n")
    return Ksm(root, tmp_path)


def files(ksm: Ksm) -> dict[str, str]:
    return {name: (ksm.root / name).read_text().strip() for name in FOUND}


def test_knobs_and_counters_are_typed(ksm: Ksm) -> None:
    knobs = ksm.knobs()
    assert (knobs.run, knobs.pages_to_scan, knobs.advisor_mode) == (1, 500, "scan-time")
    assert ksm.counters() == KsmCounters(
        full_scans=7, pages_shared=3, pages_sharing=40, general_profit_bytes=-128
    )


def test_what_an_older_kernel_has_not_is_none(ksm: Ksm) -> None:
    for name in ("advisor_mode", "smart_scan", "merge_across_nodes", "full_scans"):
        (ksm.root / name).unlink()
    knobs = ksm.knobs()
    assert {knobs.advisor_mode, knobs.smart_scan, knobs.merge_across_nodes} == {None}
    assert ksm.counters().full_scans is None
    ksm.write(pages_to_scan=7)
    with pytest.raises(Unsupported, match=r"smart_scan: it came with Linux 6\.7"):
        ksm.write(smart_scan=0)


def test_memory_that_goes_offline_changes_no_state(ksm: Ksm) -> None:
    (ksm.root / "run").write_text("5\n")
    assert ksm.knobs().run == 1


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"run": 3}, "from 0 to 2"),
        ({"run": "1"}, "from 0 to 2"),
        ({"runs": 1}, "no knob 'runs'"),
        ({"max_page_sharing": 1}, "from 2 to"),
        ({"sleep_millisecs": 2**32}, "from 0 to 4294967295"),
        ({"advisor_max_cpu": 101}, "from 0 to 100"),
        ({"advisor_target_scan_time": 0}, "from 1 to"),
        ({"advisor_mode": "both"}, "none or scan-time"),
        ({"pages_to_scan": 9}, "write advisor_mode=none with it"),
        ({"advisor_mode": "scan-time", "pages_to_scan": 9}, "write advisor_mode=none with it"),
        ({"max_page_sharing": 9}, "write run=2 with it"),
        ({"merge_across_nodes": 0}, "write run=2 with it"),
    ],
)
def test_a_rule_is_named_before_anything_is_written(
    ksm: Ksm, changes: dict[str, int | str], rule: str
) -> None:
    before = files(ksm)
    with pytest.raises(UsageError, match=rule):
        ksm.write(**{"use_zero_pages": 1, **changes})
    assert files(ksm) == before


def test_what_satisfies_a_rule_is_taken(ksm: Ksm) -> None:
    ksm.write(advisor_mode="none", pages_to_scan=9, run=2, max_page_sharing=8)
    ksm.write(max_page_sharing=8, run=0)
    knobs = ksm.knobs()
    assert (knobs.advisor_mode, knobs.pages_to_scan) == ("none", 9)
    assert (knobs.run, knobs.max_page_sharing) == (0, 8)


def test_the_order_satisfies_what_depends() -> None:
    start = in_order({"run": 1, "pages_to_scan": 9, "advisor_mode": "none"})
    assert list(start) == ["advisor_mode", "pages_to_scan", "run"]
    advised = in_order({"advisor_mode": "scan-time", "advisor_max_cpu": 9, "run": 1})
    assert list(advised) == ["advisor_max_cpu", "advisor_mode", "run"]
    assert list(in_order({"max_page_sharing": 9, "run": 2})) == ["run", "max_page_sharing"]


def test_what_is_so_already_is_not_written(ksm: Ksm) -> None:
    name = "stable_node_chains_prune_millisecs"
    (ksm.root / name).unlink()
    (ksm.root / name).symlink_to(REFUSES)
    ksm.write(**{name: int(REFUSES.read_text())})


def test_a_failure_half_way_undoes_what_was_written(ksm: Ksm) -> None:
    name = "stable_node_chains_prune_millisecs"
    (ksm.root / name).unlink()
    (ksm.root / name).symlink_to(REFUSES)
    before = ksm.knobs()
    with pytest.raises(PagemergeError, match=f"does not take {name}=7"):
        ksm.write(run=0, advisor_mode="none", pages_to_scan=9, sleep_millisecs=1, **{name: 7})
    assert ksm.knobs() == before


def test_knobs_are_put_back(ksm: Ksm) -> None:
    saved = ksm.knobs()
    ksm.write(run=0, advisor_mode="none", pages_to_scan=9, smart_scan=0, advisor_max_cpu=5)
    ksm.put_back(saved)
    assert ksm.knobs() == saved
    other = Knobs(run=0, advisor_mode="none", pages_to_scan=4)
    ksm.put_back(other)
    assert (ksm.knobs().pages_to_scan, ksm.knobs().run) == (4, 0)


def test_one_knob_that_cannot_be_put_back_keeps_none_from_it(ksm: Ksm) -> None:
    saved = ksm.knobs()
    ksm.write(sleep_millisecs=1, smart_scan=0)
    (ksm.root / "max_page_sharing").unlink()
    (ksm.root / "max_page_sharing").symlink_to(REFUSES)
    with pytest.raises(PagemergeError, match=r"not put back: .*max_page_sharing=256"):
        ksm.put_back(saved)
    assert (ksm.knobs().sleep_millisecs, ksm.knobs().smart_scan) == (20, 1)


def test_merging_is_never_undone_by_putting_back() -> None:
    assert restoring(Knobs(run=2), now=Knobs(run=1)) == {"run": 0}
    assert restoring(Knobs(run=2), now=Knobs(run=2)) == {"run": 2}, "as it stands"


def test_a_host_without_ksm_is_told_so_with_the_cure(tmp_path: Path) -> None:
    ksm = Ksm(tmp_path / "ksm")
    assert "CONFIG_KSM" in (ksm.why_not() or "")
    assert ksm.knobs() == Knobs()
    assert ksm.counters() == KsmCounters()
    with pytest.raises(Unsupported, match="--engine user"):
        ksm.write(run=1)
    with pytest.raises(Unsupported, match="CONFIG_KSM"), kernel.locked(ksm.root):
        pass


def process(proc: Path, **said: str) -> None:
    (proc / "7").mkdir()
    for name, text in said.items():
        (proc / "7" / name).write_text(text)


def test_a_process_of_a_new_kernel(tmp_path: Path) -> None:
    said = "ksm_rmap_items 9\nksm_zero_pages 2\nksm_merging_pages 5\nksm_process_profit -64\n"
    process(tmp_path, ksm_stat=said + "ksm_merge_any: no\nksm_mergeable: yes\n")
    assert kernel.process_ksm(7, tmp_path) == ProcessKsm(9, 2, 5, -64, False, True)


def test_a_process_of_older_kernels(tmp_path: Path) -> None:
    process(tmp_path, ksm_merging_pages="5\n")
    assert kernel.process_ksm(7, tmp_path) == ProcessKsm(merging_pages=5)
    (tmp_path / "7" / "ksm_merging_pages").unlink()
    assert kernel.process_ksm(7, tmp_path) == ProcessKsm()
    with pytest.raises(NoSuchProcess) as error:
        kernel.process_ksm(8, tmp_path)
    assert error.value.pid == 8


def test_smaps_and_vmstat(tmp_path: Path) -> None:
    rollup = "1000-2000 ---p 00000000 00:00 0  [rollup]\nRss:  8 kB\n"
    process(tmp_path, smaps_rollup=rollup + "KSM:  12 kB\n")
    (tmp_path / "vmstat").write_text("pgfault 12\ncow_ksm 34\n")
    assert kernel.ksm_bytes(7, tmp_path) == 12 * 1024
    assert kernel.cow_ksm(tmp_path) == 34
    (tmp_path / "7" / "smaps_rollup").write_text(rollup)
    (tmp_path / "vmstat").write_text("pgfault 12\n")
    assert kernel.ksm_bytes(7, tmp_path) is None
    assert kernel.cow_ksm(tmp_path) is None


def test_ksmd_is_told_from_a_program_of_its_name(ksm: Ksm) -> None:
    assert ksm.ksmd_cpu_seconds() is None
    tick = os.sysconf("SC_CLK_TCK")
    for pid, parent in ((7, 1), (9, 2)):
        (ksm.proc / str(pid)).mkdir()
        (ksm.proc / str(pid) / "comm").write_text("ksmd\n")
        fields = f"S {parent} 0 0 0 -1 0 0 0 0 0 {pid * tick} {tick} 0 0"
        (ksm.proc / str(pid) / "stat").write_text(f"{pid} (ksmd) {fields}\n")
    assert ksm.ksmd_cpu_seconds() == 10.0


HOLD = """
import sys
from pathlib import Path
from pagemerge.linux.ksm import locked
with locked(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_two_do_not_drive_it_at_once(ksm: Ksm) -> None:
    real = Ksm(ksm.root)
    argv = [sys.executable, "-c", HOLD, str(ksm.root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        try:
            assert real.driver() == other.pid
            with pytest.raises(PagemergeError, match=f"process {other.pid} drives"):
                kernel.locked(ksm.root).__enter__()
        finally:
            other.send_signal(signal.SIGKILL)
    said: list[str] = []
    with kernel.locked(ksm.root, waiting=said.append):
        assert real.driver() == os.getpid()
    assert (said, real.driver()) == ([], None)
