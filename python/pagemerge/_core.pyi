"""The typed contract with the Rust core.

Arrays are any contiguous objects with the buffer protocol; none may be written by another thread
while a call uses it. Every function releases the GIL. ``seed`` is 64 bits. Wrong shapes, dtypes
and ranges raise ``UsageError``; for another process ``NoSuchProcess`` and ``AccessDenied`` carry
its ``pid``.
"""

from collections.abc import Callable
from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

# numpy's own stubs admit that arrays are buffers from Python 3.12 on only.
_Bytes = Buffer | NDArray[np.uint8]
_Words = Buffer | NDArray[np.uint64]
_Numbers = Buffer | NDArray[np.uint32]

PAGE_SIZE: int
VERSION: str
"""Of the package: Cargo.toml has it."""

# find: crates/python/src/find.rs

ABSENT: int
"""Digest 0: the page was not looked at (hole, swapped, not anonymous, or gone meanwhile)."""
ZERO: int
"""Digest 1: every byte of the page is zero (compared, not hashed)."""
CHUNK: int
"""Bytes that one thread reads at a time."""

def digest(data: _Bytes, seed: int, out: _Words) -> None:
    """XXH3-64 of each page of ``data`` (u8[n * 4096]) into ``out`` (u64[n]); see ``ZERO``."""

def present_runs(pid: int, start: int, end: int, anonymous: bool = True) -> tuple[bytes, bytes]:
    """Runs of present pages in [start, end): their addresses u64[r] and page counts u64[r].

    Anonymous pages only, or also those of files and shared memory; never the kernel's page of
    zeros, nor swapped pages. Both are native-endian, for ``np.frombuffer``. Touches no page.
    ``Unsupported`` for more than 1 TiB on kernels without PAGEMAP_SCAN (Linux 6.7).
    """

def pagemap(pid: int, starts: _Words, pages: _Words, out: _Words) -> None:
    """Raw pagemap entries of the pages of runs (u64[r], u64[r]) into ``out`` (u64[sum(pages)]).

    Bits: 0-54 page frame number (0 without CAP_SYS_ADMIN), 56 mapped only once, 61 file or
    shared, 62 swapped, 63 present. Source: Linux Documentation/admin-guide/mm/pagemap.rst.
    """

def read_digests(
    pid: int,
    starts: _Words,
    pages: _Words,
    entries: _Words,
    seed: int,
    out: _Words,
    threads: int = 1,
) -> tuple[int, int]:
    """Digests of the pages of runs into ``out`` (u64[sum(pages)]).

    ``entries`` (u64[sum(pages)]) is what ``pagemap`` just said of them: pages that the target
    shares with others are read without pinning, which would copy them; pages no longer present
    are not touched. Returns the bytes read and the pages that could not be, which are ``ABSENT``.
    """

def read_only(
    pid: int, starts: _Words, pages: _Words, out: _Words, threads: int = 1, chunk: int = ...
) -> tuple[int, int]:
    """process_vm_readv(2) of the same pages, ``chunk`` bytes at a time, into nowhere.

    For benchmarks: it copies what the target shares, see ``read_digests``.
    """

def read_pages(pid: int, starts: _Words, pages: _Words, out: _Bytes) -> tuple[int, int]:
    """Copy the pages of runs into ``out`` (u8[sum(pages) * 4096]).

    Returns the bytes read and the pages that could not be read, which are filled with zeros.
    """

def look(
    pid: int, start: int, pages: int, seed: int, out: _Words, threads: int = 1
) -> tuple[int, int]:
    """``present_runs`` and ``read_digests`` in one: digests of ``pages`` pages from ``start`` on.

    ``out`` is u64[pages]; pages that are not present and anonymous become ``ABSENT`` and are not
    touched. Returns the bytes read and the pages that vanished before they could be read.
    """

def sort(keys: _Words, threads: int = 1) -> None:
    """Sort ``keys`` (u64[n]) in place, ascending."""

def count(values: _Numbers, counts: _Numbers) -> None:
    """Add to ``counts`` (u32[m]) how often each number below m occurs in ``values`` (u32[n])."""

@final
class Peer:
    """A process that asked to be read, for as long as it is what it was when it asked.

    Each method that reads makes sure of that before and after: user, group, groups, capabilities,
    security label, namespaces, the program that runs, and that another process with the same
    credentials could read it. Otherwise it raises ``AccessDenied`` that says what has changed, and
    what it has written into ``out`` must not be used. All of them may block.
    """

    def __new__(cls, pid: int) -> Peer: ...
    @property
    def credentials(self) -> bytes:
        """The lines of /proc/PID/status about uids, gids, groups and capabilities."""

    @property
    def label(self) -> bytes:
        """The label of the security module, as the kernel ends it; empty where there is none."""

    @property
    def namespaces(self) -> tuple[int, int, int]:
        """Inode numbers of its user, pid and cgroup namespaces; 0 where the kernel has none."""

    def check(self) -> None:
        """Raise unless it is what it was."""

    def close(self) -> None:
        """Let go of the process; whatever is asked afterwards raises ``HubError``."""

    def look(self, starts: _Words, pages: _Words, seed: int, out: _Words) -> tuple[int, int]:
        """As the function ``look``, of several runs of pages, one after the other in ``out``."""

    def digest_stretches(self, start: int, seed: int, out: _Words) -> tuple[int, int]:
        """Digests of stretches of 4096 bytes from ``start`` (any address) on, into ``out``.

        For memory that its owner has asked us to read, present or not. Returns as ``look``.
        """

    def present_runs(self, start: int, end: int) -> tuple[bytes, bytes]:
        """As the function ``present_runs``, of anonymous pages."""

    def maps(self) -> bytes:
        """The text of /proc/PID/maps."""

    def pages(self) -> int:
        """Pages of its address space."""

# merge, hub side: crates/python/src/{store,wire}.rs

SLAB_NAME: str
SLAB_PAGES: int
WIRE_VERSION: int
WIRE_MOST_BODY: int
WIRE_OWN: int
WIRE_KINDS: dict[str, int]
BARRIERS: dict[int, str]

def build_slab(
    peers: list[Peer], whose: _Words, starts: _Words, pages: _Words, seed: int
) -> tuple[int, int, bytes]:
    """Copy runs of pages of processes (u64[r] each) into a new sealed slab.

    ``whose`` is the number in ``peers`` of each run's process; all of them are checked before and
    after, as in ``Peer``, and no slab is made if one has changed.

    Returns its descriptor (the caller's to close), its id, and the digests u64[sum(pages)] of the
    sealed bytes. Pages that could not be read are zero. ``OutOfMemory`` when memory runs out.
    """

def copy_slots(descriptors: _Words, slots: _Words, seed: int) -> tuple[int, int, bytes]:
    """Copy slots (u64[n], each of the slab with that descriptor, u64[n]) into a new sealed slab.

    Returns as ``build_slab``.
    """

def open_slab(descriptor: int, seed: int) -> tuple[int, bytes]:
    """The id and the digests u64[pages] of a slab that somebody else made.

    ``ProtocolError`` if anybody could still change it.
    """

# merge, kernel KSM: crates/python/src/inject.rs

def inject_check(pid: int) -> None:
    """Raise what ``inject_prctl`` would raise before it does anything to process ``pid``."""

def inject_prctl(pid: int, on: bool) -> tuple[bool, float]:
    """Have process ``pid`` call prctl(PR_SET_MEMORY_MERGE, on), and go on exactly as it was.

    Returns whether its memory was mergeable as a whole before, and for how many seconds one of
    its threads was held. ``Unsupported`` where Linux is older than 6.4 or has no KSM. What stands
    in the way of this process alone is a ``PagemergeError`` that says what, with its ``pid``.
    """

def inject_madvise(
    pid: int, starts: _Words, lengths: _Words, advice: int
) -> tuple[bytes, int, float, float]:
    """Have process ``pid`` call madvise on ranges, addresses and bytes (u64[r] each).

    ``advice`` is MADV_MERGEABLE (12) or MADV_UNMERGEABLE (13). Returns 0 or an error number for
    each range (i32[r], native-endian), how often a thread was stopped, the seconds that it was held
    in all, and those of the longest stop: it runs on in between. Errors as ``inject_prctl``.
    """

def inject_separate(
    pid: int, starts: _Words, ends: _Words, across: bool, tell: Callable[[int], object]
) -> tuple[int, int, int, float, float]:
    """Have process ``pid`` call madvise(MADV_UNMERGEABLE) on ranges, in order of address.

    ``starts``, ``ends``: addresses (u64[r] each). The ranges are cut and put together so that a
    stop is short and few are needed. ``across``: calls may name what lies between ranges, too;
    that they answer ENOMEM then does not count, for it only says that there are holes.

    ``tell`` is called after each stop with the bytes of the ranges that it was about; what it
    raises, or a signal's handler, ends the work, and is raised. Returns the stops, the calls, those
    of them that were refused, the seconds that a thread was held in all, and in the longest stop.
    Errors as ``inject_prctl``; what was separated until then stays so.
    """

# the agent: crates/python/src/agent.rs

@final
class Memory:
    """Mergeable memory: a writable buffer of bytes, zero at first, page-aligned.

    ``OutOfMemory`` names the size.
    """

    def __new__(cls, nbytes: int) -> Memory: ...
    @property
    def address(self) -> int:
        """Address of the first byte."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def start_agent(socket: str, hub: list[str], barrier: str, domain: str) -> None:
    """Start this process's agent, if it has none: where its hub is, and how to start one.

    ``domain`` narrows its trust domain; empty for none.
    """

def probe_barrier(barrier: str) -> tuple[int, str]:
    """The number of the barrier that a process of this user would get, and why no better one."""

def intern_pages(data: _Bytes | Memory) -> int:
    """Merge the whole pages of ``data`` (u8) in place; returns how many are merged."""

def copy_into(data: _Bytes | Memory, memory: Memory) -> int:
    """Copy ``data`` (u8) into new memory, merged; returns how many pages are merged."""

def unmerge_range(address: int, nbytes: int) -> None:
    """Separate the pages of a range, and keep them from being merged."""

def is_mergeable(address: int, nbytes: int) -> bool:
    """Does the range lie in one mergeable region?"""

def agent_summary() -> dict[str, int | str | None]:
    """This process's regions, bytes, slabbed_pages, barrier (number), reason and hub_pid."""

LARGE_ARRAY: int

def set_numpy_handler(handler: object | None = None) -> object:
    """Make ``handler`` (None: ours) NumPy's allocator in this context; returns the one before."""
