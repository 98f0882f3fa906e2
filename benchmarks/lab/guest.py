"""Real QEMU guests on a serial line: started, talked to with deadlines, ended on every path.

Emulated (TCG) unless a probe shows that KVM boots our kernel here: a nested /dev/kvm may be there
and not do.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from pagemerge.demo.dialog import die_with_parent, end
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.model import PAGE_SIZE

from . import initramfs

QEMU = "qemu-system-x86_64"
BOOTED = 180.0
"""Seconds that a guest may take to boot and to fill its memory, on a busy host, emulated."""
CODE_MIB = 64
"""Of translated code, at most: QEMU forgets it all when there is no more room."""
CPU = "max,-erms,-fsrm"
"""All that QEMU can, but for fast ``rep movsb``, which it emulates byte by byte: a guest that
clears and copies its memory that way takes twice as long to boot."""
MACHINE = "microvm,pit=off"
"""Without the timer of old PCs, which wakes QEMU 25 times a second though no guest uses it: half of
what an idle guest costs."""
KERNEL_LINE = "console=ttyS0 quiet panic=-1 lpj=4000000 tsc=reliable init_on_free=1"
"""A guest that clears memory when it frees it has zeros there, which can be merged."""


def emulated(code_mib: int) -> Sequence[str]:
    """QEMU's options for a guest without KVM."""
    return "-accel", f"tcg,tb-size={code_mib}"


@dataclass(frozen=True, slots=True)
class Image:
    """What guests boot."""

    kernel: Path
    initramfs: Path
    common_bytes: int
    accel: Sequence[str] = emulated(CODE_MIB)


@dataclass(frozen=True, slots=True)
class Size:
    """A guest's memory."""

    memory_mib: int
    own_mib: int
    """Random bytes of its own."""
    zero_mib: int
    every_seconds: int = 30
    """Between two small writes."""


def lacks() -> str | None:
    """Why no guest can be booted here, or nothing."""
    if not shutil.which(QEMU):
        return f"{QEMU} is not installed (Debian: apt install qemu-system-x86)"
    if not shutil.which("busybox"):
        return "busybox is not installed (Debian: apt install busybox-static)"
    if not list(Path("/boot").glob("vmlinuz-*")):
        return "there is no kernel in /boot (Debian: apt install linux-image-cloud-amd64)"
    return None


@contextlib.contextmanager
def image(common_bytes: int) -> Iterator[Image]:
    """A kernel of this host's, and an initramfs with ``common_bytes`` that all guests share."""
    if reason := lacks():
        raise Unsupported(reason)
    kernels = sorted(Path("/boot").glob("vmlinuz-*"))
    kernel = next((it for it in kernels if "cloud" in it.name), kernels[-1])
    with tempfile.TemporaryDirectory(prefix="pagemerge-guest-") as folder:
        path = Path(folder) / "initramfs"
        initramfs.build(path, common_bytes, kernel.name.removeprefix("vmlinuz-"))
        yield Image(kernel, path, common_bytes)


class Guest:
    """One guest; a context that ends it.

    ``prefix`` goes before QEMU's command line (a cgroup, ``pagemerge run --``); ``disk`` is a file
    that it gets as a disk, with direct I/O into its memory. Errors: ``PagemergeError`` with its
    last words when it does not answer in time, ends, or says that something failed.
    """

    def __init__(
        self,
        booted: Image,
        size: Size,
        *,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        disk: Path | None = None,
    ) -> None:
        line = f"{KERNEL_LINE} tsc_early_khz={_clock_khz()}"
        line += f" OWN={size.own_mib} ZERO={size.zero_mib} EVERY={size.every_seconds}"
        line += f" ZEROS={_digest_of_zeros(size.zero_mib << 20)}"
        argv = [*prefix, QEMU, "-M", MACHINE, *booted.accel, "-cpu", CPU, "-no-reboot"]
        argv += ["-m", f"{size.memory_mib}M", "-nodefaults", "-display", "none"]
        argv += ["-serial", "stdio"]
        argv += ["-kernel", str(booted.kernel), "-initrd", str(booted.initramfs)]
        if disk:
            argv += ["-drive", f"id=disk,if=none,format=raw,cache=none,file={disk}"]
            argv += ["-device", "virtio-blk-device,drive=disk"]
        argv += ["-append", line]
        self.began = time.monotonic()
        self.ready = False
        self.lost = False
        """The caller has given it up."""
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            bufsize=0,
            process_group=0,
            # Kept over what the prefixes execute: it ends with us, however we end.
            preexec_fn=functools.partial(die_with_parent, os.getpid()),
        )
        self._said = b""
        self._unread = b""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def pid(self) -> int:
        """Of QEMU (prefixes execute it)."""
        return self.process.pid

    def is_ready(self, patience: float = 0.0) -> bool:
        """Has it filled its memory, or does so within ``patience`` seconds?"""
        self.ready = self.ready or self._next("ready", patience)
        return self.ready

    def until_ready(self, patience: float = BOOTED) -> None:
        """Wait until it has filled its memory."""
        if not self.is_ready(patience):
            raise self._trouble(f"is not ready after {patience:g} s")

    def is_heard(self, word: str) -> bool:
        """Has it said ``word`` once more? Does not wait."""
        return self._next(word, 0.0)

    def resident_bytes(self) -> int:
        """Memory that QEMU has touched, merged or not; 0 once it has ended."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_SIZE
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def has_ended(self) -> bool:
        """Has QEMU ended?"""
        return self.process.poll() is not None

    def ask(self, word: str, answer: str = "right", patience: float = 60.0) -> None:
        """Have it do something (check, change, disk), and wait until it says ``answer``."""
        self.tell(word)
        self.hear(answer, patience)

    def tell(self, word: str) -> None:
        """Ask without waiting; ``hear`` waits."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{word}\n".encode())
        except BrokenPipeError:
            raise self._trouble("has ended") from None

    def hear(self, answer: str = "right", patience: float = 60.0) -> None:
        """Wait until it says ``answer``."""
        if not self._next(answer, patience):
            raise self._trouble(f"did not say {answer!r} within {patience:g} s")

    def _next(self, wanted: str, patience: float) -> bool:
        """Read what it says; true at a line of ours that says ``wanted``."""
        deadline = time.monotonic() + patience
        while True:
            while b"\n" in self._unread:
                line, _, self._unread = self._unread.partition(b"\n")
                _, ours, text = line.decode(errors="replace").strip().rpartition("guest: ")
                if ours and text == wanted:
                    return True
                if ours and text.startswith(("wrong", "failed")):
                    raise self._trouble(f"says {text!r}")
            if not self._read(max(0.0, deadline - time.monotonic())):
                return False

    def _read(self, patience: float) -> bool:
        """Read more; false if there is nothing within ``patience`` seconds."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(patience):
                return False
        part = os.read(self.process.stdout.fileno(), 65536)
        if not part:
            raise self._trouble("has ended")
        self._unread += part
        self._said = (self._said + part)[-2000:]
        return True

    def _trouble(self, what: str) -> PagemergeError:
        words = self._said.decode(errors="replace").strip()
        return PagemergeError(f"guest {self.pid} {what}; its last words:\n{words}", pid=self.pid)

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        end(self.process)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@functools.cache
def _clock_khz() -> int:
    """Of the clock that an emulated guest reads, the host's: calibration hangs on a busy host.

    A guest that is told less lives faster than we do, and each tick of its costs.
    """
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return int(float(found[1]) * 1000) if found else 1_000_000


def _digest_of_zeros(size: int) -> str:
    """What ``digest.c`` says of ``size`` bytes of zeros, a multiple of 8: each word of zeros is one
    multiplication."""
    digest = 0xCBF29CE484222325 * pow(0x100000001B3, size // 8, 1 << 64) % (1 << 64)
    return f"{digest:016x}"


def with_best_accel(booted: Image, code_mib: int) -> Image:
    """The same with KVM if a guest boots with it within a few seconds, else emulated, with at most
    ``code_mib`` MiB of translated code."""
    booted = replace(booted, accel=emulated(code_mib))
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return booted
    tried = replace(booted, accel=("-accel", "kvm"))
    size = Size(memory_mib=128 + 3 * (booted.common_bytes >> 20), own_mib=1, zero_mib=1)
    with Guest(tried, size) as probe, contextlib.suppress(PagemergeError):
        probe.until_ready(20.0)
        return tried
    return booted
