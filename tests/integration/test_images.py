"""Memory images that real programs make: QEMU, gdb, and the kernel. The oracle is the memory."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.lab import guest

from pagemerge import _core
from pagemerge.errors import UsageError
from pagemerge.find.images import ImageSource, open_image
from pagemerge.find.look import look
from pagemerge.find.process import named
from pagemerge.find.sources import locate
from pagemerge.find.survey import summed_up
from pagemerge.model import PAGE_SIZE
from tests.conftest import missing
from tests.images_fuzz.campaign import Campaign
from tests.support.hubs import PATIENCE

SEED = 77
SIZE = guest.Size(memory_mib=96, own_mib=4, zero_mib=8, every_seconds=1)
MEMORY_BYTES = SIZE.memory_mib << 20
INPUTS = 2_000

Memory = np.ndarray[Any, np.dtype[np.uint8]]


def digests(source: ImageSource) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.concatenate([it.digests.copy() for it in source.read(SEED, 2)])


def digests_of(memory: Memory) -> np.ndarray[Any, np.dtype[np.uint64]]:
    found = np.empty(memory.size // PAGE_SIZE, np.uint64)
    _core.digest(memory, SEED, found)
    return found


class Monitor:
    """QEMU's QMP socket (docs/interop/qmp-spec)."""

    def __init__(self, path: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                self.socket.close()
                assert time.monotonic() < deadline, "QEMU has no monitor"
                time.sleep(0.05)
        self.socket.settimeout(PATIENCE)
        self.file = self.socket.makefile("rb")
        json.loads(self.file.readline())
        self.do("qmp_capabilities")

    def do(self, command: str, **arguments: Any) -> Any:
        """Have a command carried out; returns its answer."""
        question = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(question).encode() + b"\n")
        while "return" not in (answer := json.loads(self.file.readline())):
            assert "error" not in answer, answer
        return answer["return"]

    def human(self, line: str) -> str:
        return str(self.do("human-monitor-command", **{"command-line": line}))

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Machine:
    """A guest that runs, and what QEMU can write of it."""

    def __init__(self, running: guest.Guest, monitor: Monitor) -> None:
        self.guest, self.monitor = running, monitor
        where = monitor.human("gpa2hva 0")
        self.address = int(re.findall(r"is (0x[0-9a-f]+)", where)[0], 16)

    def stop(self) -> None:
        """Stop it; after a migration it must run first to be saved again."""
        self.monitor.do("cont")
        self.monitor.do("stop")

    def memory(self) -> Memory:
        """The memory of the guest, which must be stopped."""
        data = np.empty(MEMORY_BYTES, np.uint8)
        with Path(f"/proc/{self.guest.pid}/mem").open("rb", buffering=0) as file:
            file.seek(self.address)
            assert file.readinto(data.data) == MEMORY_BYTES
        return data

    def migrate(self, path: Path, bandwidth: int = 1 << 40, **capabilities: bool) -> int:
        """Save to ``path``; returns how many passes it took. The guest is stopped afterwards."""
        states = [{"capability": name, "state": on} for name, on in capabilities.items()]
        self.monitor.do("migrate-set-capabilities", capabilities=states)
        self.monitor.do("migrate-set-parameters", **{"max-bandwidth": bandwidth})
        self.monitor.do("migrate", uri=f"exec:cat > '{path}'")
        deadline = time.monotonic() + PATIENCE
        while (found := self.monitor.do("query-migrate"))["status"] != "completed":
            assert found["status"] in ("setup", "active", "device"), found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return int(found["ram"]["dirty-sync-count"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with guest.image(1 << 20) as booted, _machine(booted, tmp_path_factory) as running:
        yield running


@contextmanager
def _machine(booted: guest.Image, folders: pytest.TempPathFactory) -> Iterator[Machine]:
    path = folders.mktemp("qmp") / "qmp"
    more = f"""exec "$@" -qmp 'unix:{path},server=on,wait=off'"""
    with guest.Guest(booted, SIZE, prefix=["sh", "-c", more, "sh"]) as running:
        running.until_ready()
        monitor = Monitor(path)
        yield Machine(running, monitor)
        monitor.close()


@pytest.mark.requires("qemu")
@pytest.mark.timeout(300)
class TestGuest:
    """One guest; each test leaves it stopped."""

    def test_a_stream_of_a_guest_that_writes_meanwhile(
        self, machine: Machine, tmp_path: Path
    ) -> None:
        machine.monitor.do("cont")
        path = tmp_path / "stream"
        machine.guest.tell("change")
        passes = machine.migrate(path, bandwidth=48 << 20)
        memory = machine.memory()
        source = open_image(path)
        assert source.kind == "QEMU stream"
        assert not source.note
        assert passes > 2
        assert path.stat().st_size > 8 << 20
        pages = MEMORY_BYTES // PAGE_SIZE
        assert source.total > pages  # and the blocks of the firmware
        assert (digests(source)[:pages] == digests_of(memory)).all()
        some = np.arange(0, pages, 97)
        assert (source.contents(some) == memory.reshape(-1, PAGE_SIZE)[some]).all()
        cut = tmp_path / "cut"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        partial = open_image(cut)
        assert "the file is cut short" in partial.note
        assert 0 < np.count_nonzero(digests(partial)) < partial.total
        assert partial.total == source.total

    def test_images_of_a_stopped_guest_against_brute_force(
        self, machine: Machine, tmp_path: Path
    ) -> None:
        """Raw, ELF and stream of the same moment: alone, and all together."""
        machine.stop()
        files = {name: tmp_path / name for name in ("raw", "elf", "stream", "kdump")}
        machine.monitor.do("pmemsave", val=0, size=MEMORY_BYTES, filename=str(files["raw"]))
        elf = f"file:{files['elf']}"
        machine.monitor.do("dump-guest-memory", paging=False, protocol=elf)
        machine.migrate(files["stream"])
        memory = machine.memory()
        truth = digests_of(memory)
        sources = [open_image(files[name]) for name in ("raw", "elf", "stream")]
        raw, dump, stream = (digests(it) for it in sources)
        low, high = 0xC0000 // PAGE_SIZE, 0x100000 // PAGE_SIZE  # between them is the firmware
        assert (raw[:low] == truth[:low]).all()
        assert (raw[high:] == truth[high:]).all()
        assert (dump[: len(truth)] == raw).all()
        assert (stream[: len(truth)] == truth).all()
        found = summed_up(look(sources))
        assert_counted(found, [np.concatenate(pages_of(it)) for it in sources])

    def test_a_compressed_stream_and_a_kdump_are_refused_by_name(
        self, machine: Machine, tmp_path: Path
    ) -> None:
        machine.stop()
        path = tmp_path / "kdump"
        protocol = {"protocol": f"file:{path}", "format": "kdump-zlib"}
        machine.monitor.do("dump-guest-memory", paging=False, **protocol)
        with pytest.raises(UsageError, match=r"dump-guest-memory FILE` without -z"):
            open_image(path)
        path = tmp_path / "compressed"
        machine.migrate(path, compress=True)
        machine.monitor.do(
            "migrate-set-capabilities", capabilities=[{"capability": "compress", "state": False}]
        )
        with pytest.raises(UsageError, match=r"has compressed pages at byte .*capability compress"):
            open_image(path)


def pages_of(source: ImageSource) -> list[Memory]:
    indices = np.arange(source.total, dtype=np.int64)
    return [source.contents(indices[at : at + 4096]) for at in range(0, len(indices), 4096)]


def assert_counted(found: Any, images: list[Memory]) -> None:
    """The survey of images (u8[n, 4096] each) says what a dictionary of all pages says."""
    counts: Counter[bytes] = Counter()
    holders: Counter[bytes] = Counter()
    for image in images:
        contents = Counter(it.tobytes() for it in image)
        counts.update(contents)
        holders.update(contents.keys())
    zeros = counts.pop(bytes(PAGE_SIZE), 0)
    totals = found.totals
    assert totals.pages == sum(len(it) for it in images)
    assert totals.zero_pages == zeros
    across = sum(holders[it] - 1 for it in counts)
    assert totals.duplicate_pages_across == across
    within = sum(counts.values()) - len(counts) - across
    assert totals.duplicate_pages_within == within


FILL = """
import ctypes, json, mmap, random, sys
memory = mmap.mmap(-1, 3000 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, 3000, 3):
    memory[page * 4096 : page * 4096 + 4096] = random.Random(page % 999).randbytes(4096)
print(json.dumps(dict(at=ctypes.addressof(ctypes.c_char.from_buffer(memory)))), flush=True)
sys.stdin.read()
"""


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process with pages that are known, which dumps core in ``folder``; their address."""

    def allow() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)

    with subprocess.Popen(
        [sys.executable, "-c", FILL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        preexec_fn=allow,
    ) as running:
        try:
            assert running.stdout is not None
            yield running, json.loads(running.stdout.readline())["at"]
        finally:
            running.kill()


def known(number: int) -> bytes:
    """Page ``number`` of such a process."""
    return random.Random(number % 999).randbytes(PAGE_SIZE) if number % 3 == 0 else bytes(PAGE_SIZE)


def test_a_live_process_and_an_image_of_one_domain(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"".join(known(number) for number in range(999)))
    with process(tmp_path) as (running, _):
        live = locate(named([str(running.pid)])[0])
        apart = summed_up(look([live, open_image(path)]))
        together = summed_up(look([live, open_image(path, live.domain)]))
    assert together.totals.duplicate_pages_across == 333
    assert apart.totals.duplicate_pages_across == 0
    row = next(it for it in apart.rows if it.pid is None)
    assert row.name == str(path)
    assert row.pages == 999
    assert row.zero_pages == 666
    assert row.domain == f"uid {os.geteuid()}, domain memory images"


def loads(core: Path) -> list[tuple[int, int]]:
    """Address and stored bytes of each segment, as readelf tells them."""
    said = subprocess.run(["readelf", "-lW", core], capture_output=True, text=True, check=True)
    lines = re.findall(r"^\s+LOAD\s+\S+ (\S+) \S+ (\S+)", said.stdout, re.MULTILINE)
    return [(int(at, 16), int(size, 16)) for at, size in lines if int(size, 16)]


def test_gcore_of_a_process(tmp_path: Path) -> None:
    if not (gcore := shutil.which("gcore")) or not shutil.which("readelf"):
        missing("gdb", "gcore or readelf is not installed (Debian: apt install gdb binutils)")
    with process(tmp_path) as (running, _):
        os.kill(running.pid, signal.SIGSTOP)
        command = [gcore, "-o", str(tmp_path / "core"), str(running.pid)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        core = tmp_path / f"core.{running.pid}"
        assert core.exists(), made.stderr
        source = open_image(core)
        with Path(f"/proc/{running.pid}/mem").open("rb", buffering=0) as file:
            segments = loads(core)
            truth = np.zeros(sum(size for _, size in segments), np.uint8)
            done = unread = 0
            for at, size in segments:
                try:
                    file.seek(at)
                    assert file.readinto(truth[done : done + size].data) == size
                except (OSError, OverflowError):  # [vvar] and [vsyscall], which only gdb can read
                    unread += size
                done += size
    assert source.kind == "core of a process"
    assert source.total == len(truth) // PAGE_SIZE
    wrong = digests(source) != digests_of(truth)
    assert wrong.sum() <= unread // PAGE_SIZE


def test_a_core_of_the_kernel(tmp_path: Path) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern != "core":
        missing("core", f"the kernel writes cores to {pattern!r}, not to a file named core")
    with process(tmp_path) as (running, address):
        Path(f"/proc/{running.pid}/coredump_filter").write_text("0x33")
        running.send_signal(signal.SIGABRT)
        assert running.wait(PATIENCE) == -signal.SIGABRT
    cores = list(tmp_path.glob("core*"))
    assert len(cores) == 1
    source = open_image(cores[0])
    assert source.kind == "core of a process"
    assert "bytes of the process are not in the core (coredump_filter)" in source.note
    before = 0
    for at, size in loads(cores[0]):
        if at <= address < at + size:
            before += (address - at) // PAGE_SIZE
            break
        before += size // PAGE_SIZE
    else:
        pytest.fail("the memory is not in the core")
    found = source.contents(np.arange(before, before + 3000))
    assert [it.tobytes() for it in found] == [known(number) for number in range(3000)]


def test_damaged_images_of_every_form() -> None:
    """More of them: ``make fuzz-images``."""
    campaign = Campaign(seed=5)
    try:
        result = campaign.run(INPUTS)
    finally:
        campaign.close()
    assert result.faults == []
    assert result.inputs == INPUTS
    assert INPUTS // 4 < result.opened < INPUTS
