"""Text and /proc trees as an enemy would have them, for property tests."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

PIECES = [
    *(b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80\xa8", b"\x85"),
    *(b"\x1b[2J", b"\x1b]0;title\x07", b"\x9b1m", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x7f"),
    *(b"\xe2\x80\xae", b"\xe2\x81\xa6", b"\xef\xbb\xbf", b"[red]", b":smile:", b"\\012", b"\\"),
    *(b")", b"(", b" ", b"  ", b":", b"a", b"web.service", b" (deleted)", b"/memfd:pagemerge"),
    *(b"0::/system.slice/web.service", b"Uid:\t0\t0\t0\t0", b" - hugetlbfs ", b"KSM: 4 kB"),
    *("日本".encode(), "é".encode(), b"%s%n", b"{0}", b"-name", b"guest=web"),
]
"""What ends a line for Python, steers a terminal, is no UTF-8, or forges a field."""


def text(without: bytes = b"\0", most: int = 6) -> st.SearchStrategy[bytes]:
    """Hostile bytes, of which the kernel forbids those in ``without``."""
    pieces = st.sampled_from(PIECES) | st.binary(max_size=8) | st.just(b"x" * 4096)
    table = bytes(range(256))
    return st.lists(pieces, min_size=1, max_size=most).map(
        lambda found: b"".join(found).translate(table, without) or b"x"
    )


names = text(b"\0").map(lambda name: name[:15])
"""comm: any bytes but NUL, at most 15."""
paths = text(b"\0\n")
"""As maps writes them."""
cgroups = text(b"\0\n/").map(lambda name: name[:255])
"""One name below /sys/fs/cgroup."""


@dataclass(frozen=True)
class Meant:
    """A process as the kernel would describe it, and what its files must then be read as."""

    name: bytes
    uid: int
    start_time: int
    arguments: list[bytes]
    cgroup: list[bytes]
    mappings: list[tuple[int, int, bytes]]
    """Address of the first page, number of pages, path."""

    def files(self) -> dict[str, bytes]:
        """As the kernel writes them (Linux fs/proc/array.c, task_mmu.c)."""
        escaped = self.name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        uids = b"\t".join([b"%d" % self.uid] * 4)
        numbers = [b"0"] * 49
        numbers[0], numbers[1], numbers[19] = b"S", b"1", b"%d" % self.start_time
        rows = [
            b"%08x-%08x rw-p 00000000 fe:00 %d %s%s"
            % (start << 12, start + pages << 12, bool(path), b" " * 20, path)
            for start, pages, path in self.mappings
        ]
        fields = [b"Size: 4 kB", b"Rss: 4 kB", b"Pss: 2 kB", b"KSM: 4 kB", b"VmFlags: rd wr"]
        return {
            "stat": b"7 (%s) %s\n" % (self.name, b" ".join(numbers)),
            "status": b"Name:\t%s\nTgid:\t7\nUid:\t%s\n" % (escaped, uids),
            "comm": self.name + b"\n",
            "cmdline": b"".join(word + b"\0" for word in self.arguments),
            "cgroup": b"12:pids:/\n0::/%s\n" % b"/".join(self.cgroup),
            "maps": b"".join(row + b"\n" for row in rows),
            "smaps": b"".join(b"\n".join([row, *fields, b""]) for row in rows),
            "statm": b"100 50 20 1 0 9 0\n",
            "ksm_stat": b"ksm_rmap_items 3\nksm_merge_any: no\nksm_mergeable: yes\n",
        }


meant = st.builds(
    Meant,
    names,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63),
    st.lists(text(b"\0"), min_size=1, max_size=4),
    st.lists(cgroups, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 99), paths | st.just(b"")), max_size=5).map(
        lambda found: [(1 << 20 | at << 8, pages, path) for at, (pages, path) in enumerate(found)]
    ),
)

FILES = [
    *("stat", "status", "comm", "cmdline", "cgroup", "maps", "smaps", "smaps_rollup", "mountinfo"),
    *("statm", "ksm_stat", "ksm_merging_pages", "uid_map", "task/7/comm", "task/8/comm"),
]
OF_HOST = [
    *("uptime", "meminfo", "zoneinfo", "vmstat", "locks", "pressure/memory"),
    *("sys/vm/max_map_count", "sys/kernel/yama/ptrace_scope"),
]
OF_SYS = [
    *("run", "advisor_mode", "pages_shared", "pages_to_scan", "kernel/mm/transparent_hugepage"),
    *("devices/system/node/has_memory", "memory.max", "memory.current"),
]

_LINES = [
    *(b"7 (x) S 1 2", b"Name:\tx\nTgid:\t7\nUid:\t1\t1\t1\t1", b"Uid:\tx", b"0::/a", b"0:"),
    *(b"::", b"some", b"max", b"-1"),
    *(b"1000-2000 rw-p 00000000 fe:00 0 /x", b"1000-2000 rw-p", b"-", b"Rss: x kB", b"Pss:", b""),
    *(
        b"MemAvailable: 9 kB",
        b"MemAvailable:",
        b"some avg10=x ",
        b"some avg10=1.5 avg60=0",
        b"some",
    ),
    *(
        b"25 1 0:48 / /x rw - hugetlbfs x rw",
        b"25 1 x / - hugetlbfs ",
        b"9 9 9",
        b"9",
        b"-1",
        b"max",
    ),
    *(b"ksm_rmap_items 3", b"ksm_merge_any: no", b"ksm_rmap_items x", b"99999999999999999999999"),
    *(b"CapEff:\tzz", b"count: 7", b"count: x", b"cow_ksm x", b"0-1,4", b"0-x", b"a [b] c", b"1_0"),
]
contents = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from(_LINES) | text(b""), max_size=4).map(b"\n".join),
    st.none(),
    st.just("a folder"),
)
"""Of a file: bytes, none, or a folder in its place."""

Tree = dict[str, dict[str, object]]
trees: st.SearchStrategy[Tree] = st.fixed_dictionaries(
    {
        "process": st.dictionaries(st.sampled_from(FILES), contents),
        "host": st.dictionaries(st.sampled_from(OF_HOST), contents),
        "sys": st.dictionaries(st.sampled_from(OF_SYS), contents),
    }
)


def write(folder: Path, files: dict[str, object]) -> None:
    """Make ``folder`` hold these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    add(folder, files)


def add(folder: Path, files: dict[str, object]) -> None:
    """Add files to ``folder``."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            path.write_bytes(data)
        elif data is not None:
            path.mkdir(exist_ok=True)


def text_of(data: bytes) -> str:
    """As text whose bytes come back: what a reader must have made of it."""
    return data.decode("utf-8", "surrogateescape")


def assert_plain(shown: str) -> None:
    """Printable text and newlines only."""
    odd = re.sub(r"\n", "", shown)
    assert odd.isprintable(), [letter for letter in odd if not letter.isprintable()]
    shown.encode()
