"""The readers of the kernel's accounts, on folders that stand in for the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.errors import NoSuchProcess
from pagemerge.linux import accounts
from pagemerge.model import PAGE_SIZE

ROLLUP = """\
5648a5bf8000-7ffd73cfa000 ---p 00000000 00:00 0                          [rollup]
Rss:                 100 kB
Pss:                  52 kB
Pss_Dirty:            40 kB
Pss_Anon:             40 kB
Anonymous:            44 kB
SwapPss:              12 kB
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_resident_memory(tmp_path: Path) -> None:
    write(tmp_path / "7" / "smaps_rollup", ROLLUP)
    found = accounts.resident(7, proc=tmp_path)
    assert found == accounts.Resident(
        rss_bytes=100 * 1024,
        pss_bytes=52 * 1024,
        anonymous_pss_bytes=40 * 1024,
        swapped_pss_bytes=12 * 1024,
    )


def test_a_process_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (
        accounts.resident,
        accounts.cpu_seconds,
        accounts.cgroup_bytes,
    ):
        with pytest.raises(NoSuchProcess) as caught:
            read(7, proc=tmp_path)
        assert caught.value.pid == 7


def test_cpu_seconds_with_a_name_full_of_brackets(tmp_path: Path) -> None:
    write(tmp_path / "7" / "stat", "7 (a) b) (c) S 1 7 7 0 -1 0 0 0 0 0 250 50 9 9 20 0 1 0 5 0\n")
    assert accounts.cpu_seconds(7, proc=tmp_path) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("entry", "file", "percent"),
    [
        ("0::/a\n", "a/memory.pressure", 12.5),
        ("0::/a\n", "memory.pressure", None),
        ("4:memory:/a\n", "memory/a/memory.pressure", None),
    ],
)
def test_pressure_in_a_cgroup(tmp_path: Path, entry: str, file: str, percent: float | None) -> None:
    write(tmp_path / "proc" / "7" / "cgroup", entry)
    write(tmp_path / "cgroup" / file, "some avg10=12.50 avg60=0.50 avg300=0.10 total=7\n")
    found = accounts.cgroup_pressure_percent(7, proc=tmp_path / "proc", cgroups=tmp_path / "cgroup")
    assert found == percent


@pytest.mark.parametrize(
    ("entry", "file"),
    [
        ("4:memory:/a/b\n0::/\n", "memory/a/b/memory.usage_in_bytes"),
        ("0::/a.slice/b\n", "a.slice/b/memory.current"),
        ("0::/host/path/of/a/container\n", "memory.current"),
    ],
)
def test_cgroup_of_either_version(tmp_path: Path, entry: str, file: str) -> None:
    write(tmp_path / "proc" / "7" / "cgroup", entry)
    write(tmp_path / "cgroup" / file, "4096\n")
    usage = accounts.cgroup_bytes(7, proc=tmp_path / "proc", cgroups=tmp_path / "cgroup")
    assert usage == 4096


def test_what_a_host_lacks_is_none(tmp_path: Path) -> None:
    write(tmp_path / "7" / "cgroup", "0::/\n")
    write(tmp_path / "meminfo", "MemTotal: 8 kB\n")
    assert accounts.cgroup_bytes(7, proc=tmp_path, cgroups=tmp_path) is None
    assert accounts.available_bytes(proc=tmp_path) is None
    assert accounts.ksm_run(ksm=tmp_path) is None


def test_available_and_ksm(tmp_path: Path) -> None:
    write(tmp_path / "meminfo", "MemTotal: 8 kB\nMemAvailable:       4 kB\n")
    write(tmp_path / "run", "1\n")
    assert accounts.available_bytes(proc=tmp_path) == 4096
    pagesets = "  pagesets\n    cpu: {}\n              count:    {}\n              high:     9\n"
    write(tmp_path / "zoneinfo", "Node 0\n" + pagesets.format(0, 3) + pagesets.format(1, 4))
    assert accounts.available_bytes(proc=tmp_path) == 4096 + 7 * PAGE_SIZE
    assert accounts.ksm_run(ksm=tmp_path) == 1
