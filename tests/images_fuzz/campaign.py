"""One input after the other: damaged, opened, read to its end, and measured.

An input is a memfd, which costs a tenth of a file. Peaks of memory are the kernel's (VmHWM, which
``5`` written to /proc/self/clear_refs sets back, proc(5)), so they hold what numpy and mmap take.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np

from pagemerge.errors import PagemergeError
from pagemerge.find.images import open_image
from pagemerge.model import PAGE_SIZE
from tests.images_fuzz.seeds import TOKENS, seeds

MOST_BYTES = 64 << 20
MOST_SECONDS = 1.0
HUNG_SECONDS = 30
MOST_FAULTS = 20
BATCH = 25
"""Inputs between two looks at the peak of memory; one that is too high is sought in its batch."""


@dataclass
class Result:
    """What came of the inputs."""

    inputs: int = 0
    opened: int = 0
    """Inputs that gave a source."""
    noted: int = 0
    """Of these, with a note that something is missing or was assumed."""
    refused: Counter[str] = field(default_factory=Counter)
    """Kind of error -> inputs."""
    slowest_seconds: float = 0.0
    """Processor time of the slowest input."""
    most_bytes: int = 0
    """The most memory that inputs of one batch took beyond what was there before."""
    faults: list[str] = field(default_factory=list)


class Input(NamedTuple):
    """A damaged image."""

    data: bytes
    size: int
    """Bytes of the file: after ``data`` comes a hole."""


class HungError(Exception):
    """An input takes so long that it may never end."""


class Campaign:
    """Inputs of one seed; the same seed gives the same inputs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.forms = list(seeds().values())
        self.result = Result()
        self._descriptor = os.memfd_create("pagemerge-image", os.MFD_CLOEXEC)
        self._path = Path(f"/proc/self/fd/{self._descriptor}")

    def close(self) -> None:
        """Give back the memfd."""
        os.close(self._descriptor)

    def run(self, inputs: int, every: int = 0) -> Result:
        """Try so many inputs; say how far it is after each ``every`` of them."""
        result = self.result
        with _watched(result):
            while result.inputs < inputs and len(result.faults) < MOST_FAULTS:
                batch = [self.damaged() for _ in range(min(BATCH, inputs - result.inputs))]
                taken = self._measured(batch)
                if taken > MOST_BYTES:
                    taken = max(self._culprit(it) for it in batch)
                result.most_bytes = max(result.most_bytes, taken)
                if every and result.inputs % every < BATCH:
                    print(f"{result.inputs} inputs, {result.opened} opened", file=sys.stderr)
        return result

    def _measured(self, batch: Sequence[Input]) -> int:
        """Try inputs; return how many bytes of memory were taken at the most."""
        before = _peak(reset=True)
        for it in batch:
            self.try_one(it)
        return _peak(reset=False) - before

    def _culprit(self, it: Input) -> int:
        """Try one input of a batch that took too much memory once more."""
        self.result.inputs -= 1
        taken = self._measured([it])
        if taken > MOST_BYTES:
            self.fault(f"{taken >> 20} MiB of memory", it)
        return taken

    def damaged(self) -> Input:
        """One of the forms with some bytes changed, cut, doubled, or put elsewhere."""
        chance = self.random
        data = bytearray(chance.choice(self.forms))
        for _ in range(chance.choice((1, 1, 2, 3, 8))):
            # Headers are few and pages are many: look for the headers.
            end = min(len(data), chance.choice((16, 64, 256, 400, len(data)))) or 1
            at, how = chance.randrange(end), chance.random()
            if how < 0.35:
                data[at : at + 1] = bytes([chance.choice((0, 1, 0xFF, chance.randrange(256)))])
            elif how < 0.6:
                token = chance.choice(TOKENS)
                data[at : at + len(token)] = token
            elif how < 0.7:
                data[at : at + 8] = chance.randbytes(8)
            elif how < 0.8:
                del data[len(data) - chance.randrange(len(data) + 1) :]
            elif how < 0.9:
                size = chance.choice((1, 8, 9, 56, PAGE_SIZE))
                data[at:at] = data[at : at + size]
            else:
                size = chance.choice((1, 4, 8, 56, PAGE_SIZE))
                del data[at : at + size]
        hole = chance.randrange(1 << 30) if chance.random() < 0.05 else 0
        return Input(bytes(data), len(data) + hole)

    def try_one(self, it: Input) -> None:
        """Open the input, read all its pages and some contents."""
        result = self.result
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, it.data, 0)
        os.ftruncate(self._descriptor, it.size)
        result.inputs += 1
        began = time.process_time()
        try:
            self._read(it.size)
        except PagemergeError as error:
            result.refused[type(error).__name__] += 1
            if not str(error).isprintable() or len(str(error)) < 30:
                self.fault(f"the message {str(error)!r}", it)
        except Exception:
            self.fault(traceback.format_exc(), it)
        taken = time.process_time() - began
        result.slowest_seconds = max(result.slowest_seconds, taken)
        if taken > MOST_SECONDS:
            self.fault(f"{taken:.1f} s", it)

    def _read(self, size: int) -> None:
        source = open_image(self._path)
        pages = found = 0
        for piece in source.read(7, 1):
            pages += len(piece.digests)
            found += piece.bytes_read
        if pages != source.total or source.error:
            raise AssertionError(f"{pages} of {source.total} pages: {source.error!r}")
        if found > 2 * size:  # what lies between two pages may be read with them
            raise AssertionError(f"{found} bytes were read of {size}")
        if not source.note.isprintable():
            raise AssertionError(f"the note {source.note!r}")
        some = np.unique(np.linspace(0, source.total - 1, 7).astype(np.int64))
        if source.contents(some).shape != (len(some), PAGE_SIZE):
            raise AssertionError("contents of another shape")
        self.result.opened += 1
        self.result.noted += bool(source.note)

    def fault(self, what: str, it: Input) -> None:
        """Note what is wrong, and keep the input."""
        number = len(self.result.faults)
        kept = Path(f"/tmp/pagemerge-image-{os.getpid()}-{number}")
        kept.write_bytes(it.data)
        os.truncate(kept, it.size)
        self.result.faults.append(f"{kept}: {what}")


def _peak(reset: bool) -> int:
    """Return the most bytes that were resident since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_bytes().split(b"\n"):
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("there is no VmHWM in /proc/self/status")


@contextmanager
def _watched(result: Result) -> Iterator[None]:
    """Have an input raise an exception if it runs for ``HUNG_SECONDS``, twice at the most."""
    seen = -1

    def ring(_number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen == result.inputs:
            raise HungError
        seen = result.inputs

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, HUNG_SECONDS, HUNG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
