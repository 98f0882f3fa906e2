"""Every reader of the kernel's files, on files that an enemy chose the text in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemerge.errors import NoSuchProcess, PagemergeError
from pagemerge.find import process as found
from pagemerge.find.engine import merged_by_us
from pagemerge.find.evidence import _merged_by_ksmd
from pagemerge.ksmd.attach import merging_pages, users_merged
from pagemerge.ksmd.mergeable import Mergeable
from pagemerge.linux import accounts, cgroup, host, ksm, maps, oom, process, smaps, values
from pagemerge.linux.identity import Identities
from pagemerge.linux.ksm import Ksm
from pagemerge.linux.qemu import guest_of
from tests.support import hostile
from tests.support.hostile import Meant, text_of

PID = 7


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A folder for all examples of a test: a fixture for each test is made once only."""
    with TemporaryDirectory(prefix="pagemerge-hostile-") as folder:
        yield Path(folder)


Reader = Callable[[Path, Path], Any]
READERS: dict[str, Reader] = {
    "everyone": lambda root, sys: found.everyone(root),
    "named": lambda root, sys: found.named([str(PID), "x", "\udcff"], root),
    "identities": lambda root, sys: Identities(root).present(),
    "stat": lambda root, sys: process.stat(PID, root),
    "status": lambda root, sys: process.status(PID, root),
    "name": lambda root, sys: process.name(PID, root),
    "name of a thread": lambda root, sys: process.name(PID, root, 8),
    "arguments": lambda root, sys: process.arguments(PID, root),
    "statm": lambda root, sys: process.private_pages(PID, root),
    "threads": lambda root, sys: process.threads(PID, root),
    "cgroup": lambda root, sys: cgroup.unit_of(cgroup.cgroup_of(cgroup.entries(PID, root))),
    "maps": lambda root, sys: maps.mappings(PID, root),
    "mounts": lambda root, sys: maps.devices(PID, root),
    "smaps": lambda root, sys: smaps.pieces(PID, root),
    "smaps_rollup": lambda root, sys: accounts.resident(PID, proc=root),
    "ksm in smaps_rollup": lambda root, sys: ksm.ksm_bytes(PID, root),
    "cpu": lambda root, sys: accounts.cpu_seconds(PID, proc=root),
    "available": lambda root, sys: accounts.available_bytes(proc=root),
    "total": lambda root, sys: accounts.total_bytes(proc=root),
    "pressure": lambda root, sys: accounts.pressure_percent(proc=root),
    "pressure of a cgroup": lambda root, sys: accounts.cgroup_pressure_percent(
        PID, proc=root, cgroups=sys
    ),
    "anonymous": lambda root, sys: accounts.anonymous_bytes(PID, proc=root),
    "usage": lambda root, sys: accounts.cgroup_bytes(PID, proc=root, cgroups=sys),
    "adjustment": lambda root, sys: oom.last_to_end(proc=root),
    "limit": lambda root, sys: accounts.cgroup_limit_bytes(proc=root, cgroups=sys),
    "ksm run": lambda root, sys: accounts.ksm_run(ksm=sys),
    "ksm of a process": lambda root, sys: ksm.process_ksm(PID, root),
    "mergeable": lambda root, sys: ksm.is_mergeable(PID, root),
    "who is mergeable": lambda root, sys: Mergeable(
        lambda pid: ksm.is_mergeable(pid, root), root
    ).refresh(1.0),
    "merging": lambda root, sys: merging_pages(PID, root),
    "merged by ksmd": lambda root, sys: _merged_by_ksmd(PID, root),
    "users": lambda root, sys: users_merged(root),
    "copies": lambda root, sys: ksm.cow_ksm(root),
    "knobs": lambda root, sys: Ksm(sys, root).knobs(),
    "counters": lambda root, sys: Ksm(sys, root).counters(),
    "driver": lambda root, sys: Ksm(sys, root).driver(),
    "ksmd": lambda root, sys: Ksm(sys, root).ksmd_cpu_seconds(),
    "our engine": lambda root, sys: merged_by_us(PID, (), root),
    "host": lambda root, sys: host.examine(proc=root, sys=sys, etc=sys, cgroups=sys),
}


@given(hostile.trees)
@settings(max_examples=150)
def test_every_reader_answers_or_raises_ours(root: Path, tree: hostile.Tree) -> None:
    hostile.write(root / "proc", tree["host"])
    hostile.add(root / "proc" / str(PID), tree["process"])
    hostile.add(root / "proc" / "self", tree["process"])
    hostile.write(root / "sys", tree["sys"])
    for reader in READERS.values():
        with suppress(PagemergeError, OSError):  # what a reader may raise
            reader(root / "proc", root / "sys")


@given(hostile.meant)
def test_what_the_kernel_means_is_read(root: Path, who: Meant) -> None:
    folder = root / "meant"
    hostile.write(folder, {"uptime": b"1.0 1.0\n"})
    hostile.add(folder / str(PID), dict(who.files()))
    name = text_of(who.name)
    assert process.stat(PID, folder).name == process.name(PID, folder) == name
    assert process.stat(PID, folder).start_time == who.start_time
    assert found.everyone(folder) == [found.Process(PID, name, who.uid)]
    (identity,) = Identities(folder).present()
    assert (identity.pid, identity.name, identity.start_time) == (PID, name, who.start_time)
    words = (b"\0".join(who.arguments))[: process.MOST_ARGUMENTS].split(b"\0")
    assert identity.command == " ".join(map(text_of, words))
    assert identity.cgroup == text_of(b"/" + b"/".join(who.cgroup))


@given(hostile.meant)
def test_mappings_are_those_that_are_there(root: Path, who: Meant) -> None:
    folder = root / "meant"
    hostile.write(folder / str(PID), dict(who.files()))
    found = maps.mappings(PID, folder)
    assert [(it.start >> 12, it.end - it.start >> 12) for it in found] == [
        (start, pages) for start, pages, _ in who.mappings
    ]
    # Blanks in front of a path are the kernel's own; its paths begin with a slash or a bracket.
    assert [it.path.encode("utf-8", "surrogateescape") for it in found] == [
        path.lstrip(b" ") for _, _, path in who.mappings
    ]
    pieces = smaps.pieces(PID, folder)
    assert [it.mapping for it in pieces] == found
    assert [it.merged_bytes for it in pieces] == [4096] * len(found)


def foreign(parts: list[bytes]) -> str:
    return text_of(b"/" + b"/".join(parts))


@given(hostile.cgroups, st.lists(hostile.cgroups, max_size=4))
def test_no_delegated_cgroup_passes_for_a_unit(mine: bytes, below: list[bytes]) -> None:
    """Whoever was delegated a folder names what is below it as they like."""
    found = cgroup.parse(b"0::/delegated/%s\n" % b"/".join([mine, *below]))
    assert len(found) == 1
    assert cgroup.unit_of(cgroup.cgroup_of(found)) == ""
    scope = f"/machine.slice/guest.scope{foreign([mine, *below])}"
    (entry,) = cgroup.parse(b"0::" + scope.encode("utf-8", "surrogateescape") + b"\n")
    assert cgroup.unit_of(cgroup.cgroup_of([entry])) == "guest.scope"


@given(st.lists(hostile.cgroups, min_size=1, max_size=3))
def test_a_unit_has_a_name_that_systemd_gives(parts: list[bytes]) -> None:
    unit = cgroup.unit_of(foreign(parts))
    assert unit == "" or set(unit) <= set(
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\@"
    )


@given(st.lists(hostile.text(b"\0").map(text_of), min_size=1, max_size=6))
def test_arguments_of_any_form_name_a_guest_or_none(words: list[str]) -> None:
    assert isinstance(guest_of(words), str)
    assert isinstance(guest_of(["qemu", *words]), str)


def test_a_command_line_is_read_to_a_limit(tmp_path: Path) -> None:
    """A process may say that all of its memory is its arguments."""
    (tmp_path / "7").mkdir()
    with (tmp_path / "7" / "cmdline").open("wb") as file:
        file.write(b"program\0")
        file.truncate(1 << 40)
    assert process.arguments(PID, tmp_path) == ["program"]


@pytest.mark.parametrize("data", [b"", b"7 (x", b"7 (x)", b"7 (x) S", b"7 (x) S 1 y 3 4 5 z"])
def test_half_a_stat_is_an_error_that_names_the_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_bytes(data)
    with pytest.raises(PagemergeError, match=r"7/stat is not as proc\(5\)") as caught:
        process.stat(PID, tmp_path)
    assert caught.value.pid == PID


def test_a_file_that_only_newer_kernels_have(tmp_path: Path) -> None:
    with pytest.raises(NoSuchProcess):
        process.read_newer(PID, "ksm_stat", tmp_path)
    (tmp_path / "7").mkdir()
    assert process.read_newer(PID, "ksm_stat", tmp_path) is None


@given(st.binary(max_size=30) | st.integers().map(lambda number: b" %d \n" % number))
def test_a_number_is_what_python_reads_or_none(data: bytes) -> None:
    found = values.number(data)
    assert found is None or found == int(data)


def test_our_own_process() -> None:
    own = process.stat(os.getpid())
    assert own.parent == os.getppid()
    assert own.name == process.name(os.getpid()) == process.status(os.getpid()).name
    assert not own.has_ended
    assert os.getpid() in process.pids()
    assert os.getpid() in process.threads(os.getpid())
