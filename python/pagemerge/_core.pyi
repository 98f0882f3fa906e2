"""The typed contract with the Rust core.

Arrays are any contiguous objects with the buffer protocol; no other thread may write to one while a
call uses it. Every function releases the GIL. ``seed`` has 64 bits. Wrong shapes, dtypes and ranges
raise ``UsageError``; for another process ``NoSuchProcess`` and ``AccessDenied`` carry its ``pid``.
"""

from collections.abc import Callable
from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

# numpy's own stubs declare arrays as buffers only from Python 3.12 on.
_Bytes = Buffer | NDArray[np.uint8]
_Words = Buffer | NDArray[np.uint64]
_Numbers = Buffer | NDArray[np.uint32]

PAGE_SIZE: int
VERSION: str
"""Version of the package, from Cargo.toml."""

# find: crates/python/src/find.rs

ABSENT: int
"""Digest 0: the page was not looked at (hole, swapped, not anonymous, or unmapped meanwhile)."""
ZERO: int
"""Digest 1: every byte of the page is zero (compared, not hashed)."""
CHUNK: int
"""Bytes that one thread reads at a time."""

def digest(data: _Bytes, seed: int, out: _Words) -> None:
    """Write XXH3-64 of each page of ``data`` (u8[n * 4096]) to ``out`` (u64[n]); see ``ZERO``."""

def present_runs(pid: int, start: int, end: int, anonymous: bool = True) -> tuple[bytes, bytes]:
    """Find runs of present pages in [start, end): their addresses u64[r] and page counts u64[r].

    With ``anonymous``, only anonymous pages; without it, also those of files and shared memory.
    Never the kernel's page of zeros, nor swapped pages. Both results are native-endian, for
    ``np.frombuffer``. The call touches no page. Raises ``Unsupported`` for more than 1 TiB on
    kernels without PAGEMAP_SCAN (Linux 6.7).
    """

def huge_runs(pid: int, start: int, end: int) -> tuple[bytes, bytes]:
    """Find runs of anonymous pages that are parts of huge pages, as ``present_runs`` does.

    Raises ``Unsupported`` on kernels without PAGEMAP_SCAN (Linux 6.7).
    """

def pagemap(pid: int, starts: _Words, pages: _Words, out: _Words) -> None:
    """Read the raw pagemap entries of runs (u64[r], u64[r]) into ``out`` (u64[sum(pages)]).

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
    """Write digests of the pages of runs to ``out`` (u64[sum(pages)]).

    ``entries`` (u64[sum(pages)]) is what ``pagemap`` has just returned for them. Pages that the
    target shares with other processes are read without pinning, which would copy them; pages that
    are no longer present are not touched. Returns the bytes read and the number of pages that could
    not be read, which are ``ABSENT``.
    """

def read_only(
    pid: int, starts: _Words, pages: _Words, out: _Words, threads: int = 1, chunk: int = ...
) -> tuple[int, int]:
    """Read the same pages with process_vm_readv(2), ``chunk`` bytes at a time, and discard them.

    For benchmarks: this makes the kernel copy pages that the target shares, see ``read_digests``.
    """

def read_pages(pid: int, starts: _Words, pages: _Words, out: _Bytes) -> tuple[int, int]:
    """Copy the pages of runs into ``out`` (u8[sum(pages) * 4096]).

    Returns the bytes read and the number of pages that could not be read; those become zeros.
    """

def look(
    pid: int, start: int, pages: int, seed: int, out: _Words, threads: int = 1
) -> tuple[int, int]:
    """Do ``present_runs`` and ``read_digests`` in one call, for ``pages`` pages from ``start`` on.

    ``out`` is u64[pages]; pages that are not present and anonymous become ``ABSENT`` and are not
    touched. Returns the bytes read and the number of pages that vanished before they were read.
    """

def sort(keys: _Words, threads: int = 1) -> None:
    """Sort ``keys`` (u64[n]) in place, ascending."""

def count(values: _Numbers, counts: _Numbers) -> None:
    """Add to ``counts`` (u32[m]) how often each number below m occurs in ``values`` (u32[n])."""

@final
class Peer:
    """A process that asked to be read, valid while it stays what it was when it asked.

    Each method that reads checks before and after that these have not changed: user, group, groups,
    capabilities, security label, namespaces, the program that runs, and that another process with
    the same credentials could read it. Otherwise it raises ``AccessDenied`` that says what has
    changed, and the caller must not use what it has written to ``out``. All methods may block.
    """

    def __new__(cls, pid: int) -> Peer: ...
    @property
    def credentials(self) -> bytes:
        """The lines of /proc/PID/status about uids, gids, groups and capabilities."""

    @property
    def label(self) -> bytes:
        """The label of the security module, with the kernel's ending; empty if there is none."""

    @property
    def namespaces(self) -> tuple[int, int, int]:
        """Inode numbers of its user, pid and cgroup namespaces; 0 if the kernel has none."""

    def check(self) -> None:
        """Raise an error if the process is no longer what it was when it asked."""

    def close(self) -> None:
        """Release the process; every later call of a method raises ``HubError``."""

    def look(self, starts: _Words, pages: _Words, seed: int, out: _Words) -> tuple[int, int]:
        """Do as the function ``look`` for several runs of pages, one after the other in ``out``."""

    def digest_stretches(self, start: int, seed: int, out: _Words) -> tuple[int, int]:
        """Write digests of stretches of 4096 bytes from ``start`` (any address) on to ``out``.

        This is for memory that its owner has asked us to read, present or not. Returns as ``look``.
        """

    def present_runs(self, start: int, end: int) -> tuple[bytes, bytes]:
        """Do as the function ``present_runs`` for anonymous pages."""

    def maps(self) -> bytes:
        """Read the text of /proc/PID/maps."""

    def pages(self) -> tuple[int, int]:
        """Read the size of its address space, and how much anonymous memory is present, in pages.

        The second is counted by the kernel with an error of some dozen pages for each processor.
        """

# merge, hub side: crates/python/src/{store,wire}.rs

SLAB_NAME: str
SLAB_PAGES: int
WIRE_VERSION: int
WIRE_MOST_BODY: int
WIRE_OWN: int
WIRE_WHOLE: int
WIRE_HUGE: int
WIRE_CLOSED: int
WIRE_SLABBED: int
WIRE_KINDS: dict[str, int]
BARRIERS: dict[int, str]

def build_slab(
    peers: list[Peer],
    whose: _Words,
    starts: _Words,
    pages: _Words,
    seed: int,
    whole: tuple[int, float],
) -> tuple[int, int, bytes, int]:
    """Copy runs of pages of processes (u64[r] each) into a new sealed slab.

    ``whose`` is the index in ``peers`` of each run's process. ``whole``: so many blocks of 512
    pages, the first ones, become huge pages, if the kernel has memory for that, and none after one
    that took longer than so many seconds. All peers are checked before and after, as in ``Peer``,
    and no slab is made if one has changed.

    Returns the slab's descriptor (which the caller closes), its id, the digests u64[sum(pages)] of
    the sealed bytes, and one bit for each block: set if it is one huge page. Pages that could not
    be read are zero. Raises ``OutOfMemory`` if memory runs out.
    """

def copy_slots(descriptors: _Words, slots: _Words, seed: int) -> tuple[int, int, bytes]:
    """Copy slots (u64[n], each from the slab with that descriptor, u64[n]) into a new sealed slab.

    Returns the slab's descriptor, id and digests as ``build_slab``.
    """

def open_slab(descriptor: int, seed: int) -> tuple[int, bytes]:
    """Return the id and the digests u64[pages] of a slab that another process made.

    Raises ``ProtocolError`` if any process could still change it.
    """

# merge, kernel KSM: crates/python/src/inject.rs

def inject_check(pid: int) -> None:
    """Raise the error that ``inject_prctl`` would raise before it changes process ``pid``."""

def inject_prctl(pid: int, on: bool) -> tuple[bool, float]:
    """Have process ``pid`` call prctl(PR_SET_MEMORY_MERGE, on), and continue exactly as it was.

    Returns whether all its memory was mergeable before, and for how many seconds one of its threads
    was held. Raises ``Unsupported`` if Linux is older than 6.4 or has no KSM. An obstacle in this
    process alone raises ``PagemergeError`` that names the obstacle, with the ``pid``.
    """

def inject_madvise(
    pid: int, starts: _Words, lengths: _Words, advice: int
) -> tuple[bytes, int, float, float]:
    """Have process ``pid`` call madvise on ranges: addresses and lengths in bytes (u64[r] each).

    ``advice`` is MADV_MERGEABLE (12) or MADV_UNMERGEABLE (13). Returns 0 or an error number for
    each range (i32[r], native-endian), how often a thread was stopped, the seconds that it was held
    in all, and the seconds of the longest stop: it runs between stops. Raises as ``inject_prctl``.
    """

def inject_separate(
    pid: int, starts: _Words, ends: _Words, across: bool, tell: Callable[[int], object]
) -> tuple[int, int, int, float, float]:
    """Have process ``pid`` call madvise(MADV_UNMERGEABLE) on ranges, in order of address.

    ``starts``, ``ends``: addresses (u64[r] each). The ranges are split and joined so that each stop
    is short and there are few stops. ``across``: a call may also cover memory between ranges. The
    answer ENOMEM does not count as refused then, because it only means that there are holes.

    Calls ``tell`` after each stop with the bytes of the ranges that the stop was about. An
    exception of ``tell`` or of a signal handler ends the work, and is raised. Returns the stops,
    the calls, the refused calls, the seconds that a thread was held in all, and the seconds of the
    longest stop. Raises as ``inject_prctl``; pages that were separated before stay separated.
    """

# scheduling: crates/python/src/scheduling.rs

def lengthen_slice(thread: int, lengthened: bool) -> bool:
    """Lengthen the slice of a thread (0: the calling one) of any process by an eighth, or set it to
    the kernel's default again. Threads that wake up take the processor from it at once then (Linux
    6.12; older kernels ignore it).

    Returns false for a thread of another policy than SCHED_OTHER and SCHED_BATCH. Raises
    ``PagemergeError`` where the kernel refuses (sched_setattr(2)).
    """

# the agent: crates/python/src/agent.rs

@final
class Memory:
    """Mergeable memory: a writable buffer of bytes, zero at first, page-aligned.

    Raises ``OutOfMemory`` that names the size if there is not enough memory.
    """

    def __new__(cls, nbytes: int) -> Memory: ...
    @property
    def address(self) -> int:
        """Address of the first byte."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def start_agent(socket: str, hub: list[str], barrier: str, domain: str) -> None:
    """Start this process's agent, if it has none.

    ``socket`` is the path where its hub listens, ``hub`` the command that starts a hub. ``domain``
    narrows its trust domain; empty for none.
    """

def probe_barrier(barrier: str) -> tuple[int, str]:
    """Return the number of the barrier that a process of this user would get, and why it would get
    no better one."""

def intern_pages(data: _Bytes | Memory) -> int:
    """Merge the whole pages of ``data`` (u8) in place; returns how many are merged."""

def copy_into(data: _Bytes | Memory, memory: Memory) -> int:
    """Copy ``data`` (u8) into new ``memory``, and merge it; returns how many pages are merged."""

def unmerge_range(address: int, nbytes: int) -> None:
    """Separate the pages of a range, and keep them from being merged."""

def is_mergeable(address: int, nbytes: int) -> bool:
    """Does the range lie in one mergeable region?"""

def agent_summary() -> dict[str, int | str | None]:
    """Return regions, bytes, slabbed_pages, barrier (number), reason and hub_pid of this process's
    agent."""

LARGE_ARRAY: int

def set_numpy_handler(handler: object | None = None) -> object:
    """Make ``handler`` (None: ours) NumPy's allocator in this context; returns the one before."""
