"""A member of the Python API for the soak: what ``soaker.c`` does in a program, by our own calls.

Arguments: the compiled library, then those of ``soaker.c``'s main. Arrays of every origin come and
go, are interned, separated and forked, while threads of C rewrite them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.soak.tally import PARTS, Tally

import pagemerge
from pagemerge.demo.dialog import Answer, die_with_parent, serve
from pagemerge.errors import HubError
from pagemerge.model import PAGE_SIZE

WORDS = PAGE_SIZE // 8
U64 = npt.NDArray[np.uint64]


class Soaker:
    """The parts of this process's memory, and one thread that does things to them."""

    def __init__(self, library: str, tally: Path, serial: int, seed: int, pages: int) -> None:
        self.library = ctypes.CDLL(library)
        with tally.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), ctypes.sizeof(Tally))
        self.tally = Tally.from_buffer(self._shared)
        self.random = random.Random(seed)
        self.state = ctypes.c_uint64(seed)
        self.pages = pages
        self.library.draw_key.restype = ctypes.c_uint64
        self.arrays: list[U64 | None] = [None] * PARTS
        self.serial = serial

    def start(self, writers: int, pause: int) -> None:
        """Fill all parts, and start the threads."""
        self.library.soak_start(
            ctypes.byref(self.tally), ctypes.c_uint64(self.serial), ctypes.c_uint64(pause)
        )
        for number in range(PARTS):
            self._put(number, pagemerge.empty((self.pages, WORDS), np.uint64))
            self.library.soak_fill(number, ctypes.byref(self.state))
        for _ in range(writers):
            seed = ctypes.c_uint64(self.random.getrandbits(63) | 1)
            threading.Thread(target=self.library.soak_write, args=(seed,), daemon=True).start()
        threading.Thread(target=self._operate, daemon=True).start()

    def check(self) -> Answer:
        """Verify every page."""
        return {"wrong": self.library.soak_check()}

    def corrupt(self) -> Answer:
        """Break a byte behind the accounts, for the soak's own test."""
        self.library.soak_corrupt()
        return {}

    def leave(self) -> Answer:
        """End at once, whatever the threads and the agent are about to do."""
        os._exit(0)

    def _operate(self) -> None:
        works: list[Callable[[int], None]] = [
            *[self._copy, self._intern, self._separate] * 3,
            *[self._anew, self._drop, self._fork] * 2,
            *[self._spawn, self._use_in_child, self._refill],
        ]
        while True:
            number = self.random.randrange(PARTS)
            work = self.random.choice(works)
            self.library.soak_lock(number)
            try:
                self.library.soak_verify(number, b"a look before a call")
                work(number)
                self.library.soak_verify(number, b"a look after a call")
            except HubError:
                self.tally.refused += 1  # it was killed or stopped just now
            except Exception as error:
                self.tally.failed += 1
                self.tally.failure = f"{work.__name__}: {error!r}".encode()[:111]
            finally:
                self.library.soak_unlock(number)
            self.tally.turns += 1
            time.sleep(self.random.uniform(0.02, 0.3))

    def _put(self, number: int, array: U64 | None, keys: U64 | None = None) -> None:
        """The caller holds the part's lock; the memory that was there goes."""
        base = array.ctypes.data if array is not None else None
        known = keys.ctypes.data if keys is not None else None
        pages = ctypes.c_uint64(len(array) if array is not None else 0)
        self.library.soak_set(number, ctypes.c_void_p(base), pages, ctypes.c_void_p(known))
        self.arrays[number] = array
        self.tally.births += 1

    def _copy(self, number: int) -> None:
        """Merged at birth."""
        keys, source = self._draw()
        self._put(number, pagemerge.copy(source), keys)

    def _draw(self) -> tuple[U64, U64]:
        """Keys, and pages made of them, in ordinary memory."""
        own = self.random.random() < 0.2
        draw = (
            self.library.draw_key(ctypes.byref(self.state), ctypes.c_uint64(page), own)
            for page in range(self.pages)
        )
        keys = np.fromiter(draw, np.uint64, self.pages)
        source = np.empty((self.pages, WORDS), np.uint64)
        for page, key in enumerate(keys.tolist()):
            at = ctypes.c_void_p(source.ctypes.data + page * PAGE_SIZE)
            self.library.write_page(at, ctypes.c_uint64(key))
        return keys, source

    def _anew(self, number: int) -> None:
        """Memory of another origin."""
        kind = self.random.choice(["empty", "buffer", "mergeable_arrays"])
        array: U64
        if kind == "empty":
            array = pagemerge.empty((self.pages, WORDS), np.uint64)
        elif kind == "buffer":
            memory = pagemerge.buffer(self.pages * PAGE_SIZE)
            array = np.frombuffer(memoryview(memory), np.uint64).reshape(self.pages, WORDS)
        else:
            with pagemerge.mergeable_arrays():
                # The handler aligns large arrays to pages; a page more, in case it does not.
                room = np.zeros((self.pages + 1) * WORDS, np.uint64)
            skip = -room.ctypes.data % PAGE_SIZE // 8
            array = room[skip : skip + self.pages * WORDS].reshape(self.pages, WORDS)
        self._put(number, array)
        if self.random.random() < 0.8:
            self.library.soak_fill(number, ctypes.byref(self.state))

    def _intern(self, number: int) -> None:
        """Nobody writes it now: the part's lock is ours."""
        array = self.arrays[number]
        if array is not None:
            pagemerge.intern(array)

    def _separate(self, number: int) -> None:
        """Beside writers, which is allowed; the lock is let go of meanwhile."""
        array = self.arrays[number]
        if array is None:
            return
        first = self.random.randrange(len(array))
        self.library.soak_unlock(number)
        try:
            pagemerge.unmerge(array[first:])
        finally:
            self.library.soak_lock(number)
        self.tally.unmerges += 1

    def _drop(self, number: int) -> None:
        """Free the memory, merged as it is."""
        self._put(number, None)
        self.tally.discards += 1

    def _refill(self, number: int) -> None:
        if self.arrays[number] is not None:
            self.library.soak_fill(number, ctypes.byref(self.state))

    def _fork(self, number: int) -> None:
        self._in_child(number, lambda: 0, "a forked child")

    def _use_in_child(self, number: int) -> None:
        """The child uses the interface: it becomes a client of its own."""

        def use() -> int:
            array = self.arrays[number]
            assert array is not None
            try:
                copied = pagemerge.copy(array)
            except HubError:
                return 0
            return int((copied != array).any())

        self._in_child(number, use, "a forked child that uses pagemerge")

    def _in_child(self, number: int, use: Callable[[], int], what: str) -> None:
        if self.arrays[number] is None:
            return
        seed = ctypes.c_uint64(self.random.getrandbits(63) | 1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                # Freed pages of the Python API would show the slab's bytes: no discards here.
                status = self.library.soak_child(number, seed, 0) or use()
            finally:
                os._exit(bool(status))
        self.library.soak_wait(child, what.encode())
        self.tally.forks += 1

    def _spawn(self, number: int) -> None:
        subprocess.run(["/bin/true"], check=True)
        child = os.posix_spawn("/bin/true", ["true"], os.environ)
        self.library.soak_wait(child, b"a spawned program")
        self.tally.spawns += 2


def main() -> None:
    die_with_parent(os.getppid())
    library, tally, *numbers = sys.argv[1:]
    serial, seed, pages, writers, pause = (int(number) for number in numbers)
    soaker = Soaker(library, Path(tally), serial, seed, pages)
    soaker.start(writers, pause)
    verbs: dict[str, Any] = {name: getattr(soaker, name) for name in ("check", "corrupt", "leave")}
    serve(verbs)
    os._exit(0)  # the writers never end


if __name__ == "__main__":
    main()
