"""One process, as its files in /proc tell: proc_pid_stat(5), proc_pid_status(5) and their like.

Each file is parsed here and nowhere else. A name and arguments are the process's own word: any
bytes but NUL. Readers raise ``NoSuchProcess`` and ``AccessDenied``, and ``PagemergeError`` for a
file that is not as the man page says; they raise nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import NoSuchProcess, malformed, of_process
from pagemerge.linux import text
from pagemerge.linux.values import hexadecimal, number, number_in, pairs

PROC = Path("/proc")

KERNEL_THREAD = 0x0020_0000
"""PF_KTHREAD of ``Stat.flags`` (Linux include/linux/sched.h)."""

MOST_ARGUMENTS = 1 << 15
"""Bytes of a command line that are read. A process may move its own end of them anywhere
(prctl(2), PR_SET_MM): without a limit it had us read all of its memory."""

_MODULE = re.compile(r"-[bBdEiIOPqRsSuvx]*m(.*)", re.DOTALL)

_MOST = 1 << 20
"""Bytes of any other file of a process that are read."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What of ``stat`` is used here."""

    name: str
    """Its comm: at most 15 bytes, of a kernel thread 64."""
    state: str
    """A letter; Z and X have ended."""
    parent: int
    session: int
    """The pid that its session was made by: of a login, a job of cron, a unit."""
    flags: int
    cpu_ticks: int
    """Processor time in user and system mode, of all threads together."""
    start_time: int
    """Clock ticks since the host started."""
    stack: int
    """Address of the stack's bottom, drawn at each exec; 0 where we may not see it."""

    @property
    def has_ended(self) -> bool:
        """Only its parent has not taken note of it yet."""
        return self.state in ("Z", "X")

    @property
    def cpu_seconds(self) -> float:
        """``cpu_ticks`` in seconds."""
        return self.cpu_ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Status:
    """What of ``status`` is used here."""

    pid: int
    """Of the process; asked about a thread, that of the process it belongs to."""
    name: str
    uid: int
    """Effective."""
    capabilities: int
    """In effect: bit by number, capabilities(7)."""


def pids(proc: Path = PROC) -> list[int]:
    """The processes of this host, ascending. Raises ``OSError`` where there is no /proc."""
    with os.scandir(proc) as entries:
        return sorted(int(entry.name) for entry in entries if _is_pid(entry.name))


def threads(pid: int, proc: Path = PROC) -> list[int]:
    """The threads of process ``pid``, ascending; none if it has gone or is hidden."""
    try:
        return pids(proc / str(pid) / "task")
    except OSError:
        return []


def read(pid: int | str, name: str, proc: Path = PROC, most: int = _MOST) -> bytes:
    """The file ``name`` of process ``pid`` (or ``"self"``)."""
    path = f"{proc}/{pid}/{name}"
    try:
        return text.read(path, most)
    except OSError as error:
        raise of_process(error, os.getpid() if isinstance(pid, str) else pid, path) from None


def stat(pid: int, proc: Path = PROC) -> Stat:
    """``/proc/PID/stat``."""
    before, bracket, after = read(pid, "stat", proc).rpartition(b")")
    # The name may itself hold brackets, blanks and newlines; behind the last bracket are numbers.
    fields = after.split()  # from the third field on
    if not bracket or len(fields) < 2:
        raise malformed(pid, f"{proc}/{pid}/stat")
    fields += [b"0"] * (26 - len(fields))
    try:
        return Stat(
            text.decoded(before.partition(b"(")[2]),
            fields[0].decode("ascii"),
            int(fields[1]),
            int(fields[3]),
            int(fields[6]),
            int(fields[11]) + int(fields[12]),
            int(fields[19]),
            int(fields[25]),
        )
    except ValueError:
        raise malformed(pid, f"{proc}/{pid}/stat") from None


def status(pid: int, proc: Path = PROC) -> Status:
    """``/proc/PID/status``."""
    found = pairs(read(pid, "status", proc))
    uids = found.get(b"Uid", b"").split()
    process, uid = number(found.get(b"Tgid")), number(uids[1]) if len(uids) == 4 else None
    if process is None or uid is None:
        raise malformed(pid, f"{proc}/{pid}/status")
    written = found.get(b"Name", b"").removeprefix(b"\t")  # the name itself may begin with blanks
    held = hexadecimal(found.get(b"CapEff")) or 0
    return Status(process, text.decoded(_unescaped(written)), uid, held)


def name(pid: int, proc: Path = PROC, thread: int | None = None) -> str:
    """``comm`` of a process, or of one of its threads."""
    file = "comm" if thread is None else f"task/{thread}/comm"
    return text.decoded(read(pid, file, proc).removesuffix(b"\n"))


def arguments(pid: int, proc: Path = PROC) -> list[str]:
    """``/proc/PID/cmdline``: at least one word, of which the first is the program's name for
    itself; empty for a kernel thread. At most ``MOST_ARGUMENTS`` bytes."""
    line = read(pid, "cmdline", proc, MOST_ARGUMENTS)
    return text.decoded(line.rstrip(b"\0")).split("\0")


def program(words: Sequence[str]) -> str:
    """What the arguments ``words`` say is run: the name of a file; of Python, its script or module.

    Like the arguments it is the process's own word. Source: the command line of python(1).
    """
    name = words[0].rpartition("/")[2]
    if "python" not in name:
        return name
    rest = iter(words[1:])
    for word in rest:
        if module := _MODULE.fullmatch(word):
            return module[1] or next(rest, "")
        if word == "-c":
            break
        if word in ("-W", "-X", "--check-hash-based-pycs"):
            next(rest, "")
        elif not word.startswith("-"):
            return word.rpartition("/")[2]
    return name


def private_pages(pid: int, proc: Path = PROC) -> int:
    """Pages that it has in memory and that are of no file: ``statm``, resident less shared.

    Costs microseconds, whatever its size.
    """
    fields = [number(field) for field in read(pid, "statm", proc).split()]
    if len(fields) < 3 or fields[1] is None or fields[2] is None:
        raise malformed(pid, f"{proc}/{pid}/statm")
    return max(fields[1] - fields[2], 0)


def ksm_stat(pid: int, proc: Path = PROC) -> dict[str, bytes]:
    """``/proc/PID/ksm_stat`` (Linux 6.1), name -> value; empty on an older kernel.

    Some names have a colon behind them, some a blank.
    """
    words = (line.split() for line in text.lines(read_newer(pid, "ksm_stat", proc) or b""))
    return {text.decoded(it[0].rstrip(b":")): it[1] for it in words if len(it) == 2}


def read_newer(pid: int, name: str, proc: Path = PROC) -> bytes | None:
    """The file ``name`` of process ``pid``, or None where this kernel has no such file."""
    try:
        return read(pid, name, proc)
    except NoSuchProcess:
        if (proc / str(pid)).exists():
            return None
        raise


def most_mappings(proc: Path = PROC) -> int:
    """vm.max_map_count: most mappings of a process; Linux's own choice where it cannot be read."""
    return number_in(proc / "sys/vm/max_map_count") or 65530


def _is_pid(entry: str) -> bool:
    return entry.isascii() and entry.isdecimal() and len(entry) < 12


def _unescaped(written: bytes) -> bytes:
    """A name as ``status`` writes it: ``\\n`` for a newline, two backslashes for one.

    Source: ``proc_task_name`` in Linux fs/proc/array.c.
    """
    if b"\\" not in written:
        return written
    return b"\\".join(part.replace(b"\\n", b"\n") for part in written.split(b"\\\\"))
