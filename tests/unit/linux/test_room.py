"""What is left of a host and of memory cgroups, in folders that stand in for the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.errors import NoSuchProcess, Unsupported
from pagemerge.linux.room import Limit, inside, room

MEMINFO = "MemTotal: 1000 kB\nMemAvailable: 500 kB\n"
K = 1024


def host(root: Path, entry: str, files: dict[str, str], meminfo: str = MEMINFO) -> dict[str, Path]:
    """A host with one process, number 7."""
    files = {f"cgroup/{name}": text for name, text in files.items()}
    for name, text in {"proc/meminfo": meminfo, "proc/7/cgroup": entry, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"proc": root / "proc", "cgroups": root / "cgroup"}


def group(
    limit: int | str, used: int, cache: int, path: str = "a", high: str = "max"
) -> dict[str, str]:
    stat = f"anon 1\ninactive_file {cache // 4}\nactive_file {cache * 3 // 4}\n"
    return {
        f"{path}/memory.max": f"{limit}\n",
        f"{path}/memory.high": f"{high}\n",
        f"{path}/memory.current": f"{used}\n",
        f"{path}/memory.stat": stat,
    }


def test_no_limit(tmp_path: Path) -> None:
    folders = host(tmp_path, "0::/a\n", group("max", 900, 0))
    found = room(7, **folders)
    assert (found.left_bytes, found.limit) == (500 * K, None)
    assert room(None, **folders).left_bytes == 500 * K


def test_the_group_that_leaves_least_counts_and_its_cache_can_go(tmp_path: Path) -> None:
    files = group(300 * K, 250 * K, 40 * K) | group(200 * K, 100 * K, 4 * K, "a/b")
    found = room(7, **host(tmp_path, "0::/a/b\n", files))
    assert found.limit == Limit(b"a", "memory.max", 300 * K, 250 * K, 40 * K)
    assert found.left_bytes == 90 * K


def test_memory_high_counts(tmp_path: Path) -> None:
    files = group(300 * K, 250 * K, 0, high=str(260 * K))
    found = room(7, **host(tmp_path, "0::/a\n", files))
    assert (found.limit and found.limit.file, found.left_bytes) == ("memory.high", 10 * K)


def test_version_1_and_a_group_over_its_limit(tmp_path: Path) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": f"{100 * K}\n",
        "memory/a/memory.usage_in_bytes": f"{101 * K}\n",
        "memory/a/memory.stat": "active_file 7\ntotal_active_file 1\ntotal_inactive_file 2\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/memory.usage_in_bytes": "1\n",
    }
    found = room(7, **host(tmp_path, "4:memory:/a\n0::/\n", files))
    assert found.limit == Limit(b"a", "memory.limit_in_bytes", 100 * K, 101 * K, 3)
    assert found.left_bytes == 0


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    files = {name.removeprefix("a/"): it for name, it in group(90 * K, 10 * K, 0).items()}
    found = room(7, **host(tmp_path, "0::/docker/1234\n", files))
    assert found.limit == Limit(b"", "memory.max", 90 * K, 10 * K, 0)


def test_a_limit_that_leaves_more_than_the_host_does_not_count(tmp_path: Path) -> None:
    found = room(7, **host(tmp_path, "0::/a\n", group(900 * K, 0, 0)))
    assert (found.left_bytes, found.limit) == (500 * K, None)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [("0::/a\n", True), ("0::/a/b\n", True), ("0::/ab\n", False), ("0::/\n", False)],
)
def test_inside(tmp_path: Path, entry: str, expected: bool) -> None:
    proc = host(tmp_path, entry, {})["proc"]
    assert inside(7, Limit(b"a", "memory.max", 1, 0, 0), proc=proc) is expected
    assert inside(7, Limit(b"", "memory.max", 1, 0, 0), proc=proc)
    assert not inside(8, Limit(b"", "memory.max", 1, 0, 0), proc=proc)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    folders = host(tmp_path, "0::/a\n", {}, "MemTotal: 1000 kB\n")
    with pytest.raises(Unsupported, match="MemAvailable"):
        room(7, **folders)
    folders = host(tmp_path, "0::/a\n", {})
    with pytest.raises(NoSuchProcess):
        room(8, **folders)
