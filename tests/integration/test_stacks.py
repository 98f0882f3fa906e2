"""Stacks that a program gives to its threads are not merged.

The kernel writes to a stack when its thread ends, and no barrier holds that write.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pagemerge.linux.maps import mappings
from tests.support.hubs import Hub

MIB = 1 << 20

CODE = """
import ctypes, mmap, sys

libc = ctypes.CDLL(None)
memory = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(bytes([7]) * (8 << 20))
{mark}
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(start, flush=True)
held = bytearray(1 << 17)  # agents start as a program allocates memory
input()
attributes = ctypes.create_string_buffer(256)
assert libc.pthread_attr_init(attributes) == 0
stack = ctypes.c_void_p(start), ctypes.c_size_t(3 << 20)
assert libc.pthread_attr_setstack(attributes, *stack) == 0
assert libc.pthread_attr_setstack(attributes, stack[0], ctypes.c_size_t(1)) != 0  # too small
print("given", flush=True)
input()
assert memory[:] == bytes([7]) * (8 << 20)
"""


@pytest.mark.parametrize("marks", [False, True])
def test_a_stack_is_left_alone(hub: Hub, marks: bool) -> None:
    code = CODE.format(mark="memory.madvise(mmap.MADV_MERGEABLE)" if marks else "")
    words = ["--barrier", "park", *([] if marks else ["--all"]), "--", sys.executable, "-c", code]
    with subprocess.Popen(
        [sys.executable, "-m", "pagemerge", "run", "--quiet", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **hub.env},
    ) as program:
        assert program.stdin and program.stdout
        try:
            start = int(program.stdout.readline())
            hub.until(lambda: merged(program.pid, start) == 8 * MIB, "merge all of it")
            program.stdin.write(b"\n")
            program.stdin.flush()
            assert program.stdout.readline() == b"given\n"
            hub.until(lambda: merged(program.pid, start) == 5 * MIB, "merge the rest only")
            assert merged(program.pid, start, 3 * MIB) == 0
            program.stdin.write(b"\n")
            program.stdin.flush()
            assert program.wait(timeout=30) == 0
        finally:
            program.kill()


def merged(pid: int, start: int, size: int = 8 * MIB) -> int:
    """The bytes of a range of a process that map stable pages."""
    found = (it for it in mappings(pid) if it.slab)
    return sum(max(min(it.end, start + size) - max(it.start, start), 0) for it in found)
