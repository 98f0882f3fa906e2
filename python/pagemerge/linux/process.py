"""Reads the files of one process in /proc: proc_pid_stat(5), proc_pid_status(5) and others.

Only this module parses these files. The process itself chooses its name and arguments: any bytes
but NUL. Readers raise ``NoSuchProcess`` and ``AccessDenied``, and ``PagemergeError`` for a file
that is not as the man page says; they raise nothing else.
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
"""Bytes of a command line that are read. A process may move the end of its arguments anywhere
(prctl(2), PR_SET_MM): without a limit it could make us read all of its memory."""

_MODULE = re.compile(r"-[bBdEiIOPqRsSuvx]*m(.*)", re.DOTALL)

_MOST = 1 << 20
"""Most bytes that are read of any other file of a process."""


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of ``stat`` that are used here."""

    name: str
    """The process's comm: at most 15 bytes; at most 64 for a kernel thread."""
    state: str
    """A letter; a process in state Z or X has ended."""
    parent: int
    session: int
    """Pid of the process that created the session: of a login, a cron job, a unit."""
    flags: int
    cpu_ticks: int
    """Processor time in user and system mode, of all threads together, in clock ticks."""
    start_time: int
    """Clock ticks since the host started."""
    stack: int
    """Address of the stack's bottom, chosen at random at each exec; 0 if we may not see it."""

    @property
    def has_ended(self) -> bool:
        """The process has ended, and its parent has not waited for it yet."""
        return self.state in ("Z", "X")

    @property
    def cpu_seconds(self) -> float:
        """``cpu_ticks`` in seconds."""
        return self.cpu_ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Status:
    """The fields of ``status`` that are used here."""

    pid: int
    """Pid of the process; for a thread, the pid of the process that it belongs to."""
    name: str
    uid: int
    """Effective user id."""
    capabilities: int
    """Effective capabilities: one bit for each number in capabilities(7)."""


def pids(proc: Path = PROC) -> list[int]:
    """List the pids of this host, ascending. Raises ``OSError`` if there is no /proc."""
    with os.scandir(proc) as entries:
        return sorted(int(entry.name) for entry in entries if _is_pid(entry.name))


def threads(pid: int, proc: Path = PROC) -> list[int]:
    """List the threads of process ``pid``, ascending; none if it has ended or is hidden."""
    try:
        return pids(proc / str(pid) / "task")
    except OSError:
        return []


def read(pid: int | str, name: str, proc: Path = PROC, most: int = _MOST) -> bytes:
    """Read the file ``name`` of process ``pid`` (or ``"self"``), up to ``most`` bytes."""
    path = f"{proc}/{pid}/{name}"
    try:
        return text.read(path, most)
    except OSError as error:
        raise of_process(error, os.getpid() if isinstance(pid, str) else pid, path) from None


def stat(pid: int, proc: Path = PROC) -> Stat:
    """Read ``/proc/PID/stat``."""
    before, bracket, after = read(pid, "stat", proc).rpartition(b")")
    # The name itself may contain brackets, blanks and newlines; the fields after the last bracket
    # contain none.
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
    """Read ``/proc/PID/status``."""
    found = pairs(read(pid, "status", proc))
    uids = found.get(b"Uid", b"").split()
    process, uid = number(found.get(b"Tgid")), number(uids[1]) if len(uids) == 4 else None
    if process is None or uid is None:
        raise malformed(pid, f"{proc}/{pid}/status")
    written = found.get(b"Name", b"").removeprefix(b"\t")  # the name itself may begin with blanks
    held = hexadecimal(found.get(b"CapEff")) or 0
    return Status(process, text.decoded(_unescaped(written)), uid, held)


def name(pid: int, proc: Path = PROC, thread: int | None = None) -> str:
    """Read ``comm`` of a process, or of one of its threads."""
    file = "comm" if thread is None else f"task/{thread}/comm"
    return text.decoded(read(pid, file, proc).removesuffix(b"\n"))


def arguments(pid: int, proc: Path = PROC) -> list[str]:
    """Read ``/proc/PID/cmdline``, at most ``MOST_ARGUMENTS`` bytes of it.

    The list has at least one word. The first is argv[0], which is empty for a kernel thread.
    """
    line = read(pid, "cmdline", proc, MOST_ARGUMENTS)
    return text.decoded(line.rstrip(b"\0")).split("\0")


def program(words: Sequence[str]) -> str:
    """Return the name of the program's file in the arguments ``words``; for Python, its script or
    module.

    Like the arguments, the process itself chooses it. Source: the command line of python(1).
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
    """Count the resident pages that do not belong to a file: ``statm``, resident less shared.

    The call takes microseconds, for a process of any size.
    """
    fields = [number(field) for field in read(pid, "statm", proc).split()]
    if len(fields) < 3 or fields[1] is None or fields[2] is None:
        raise malformed(pid, f"{proc}/{pid}/statm")
    return max(fields[1] - fields[2], 0)


def ksm_stat(pid: int, proc: Path = PROC) -> dict[str, bytes]:
    """Read ``/proc/PID/ksm_stat`` (Linux 6.1), name -> value; empty on an older kernel.

    A colon follows some of the names, a blank follows the others.
    """
    words = (line.split() for line in text.lines(read_newer(pid, "ksm_stat", proc) or b""))
    return {text.decoded(it[0].rstrip(b":")): it[1] for it in words if len(it) == 2}


def read_newer(pid: int, name: str, proc: Path = PROC) -> bytes | None:
    """Read the file ``name`` of process ``pid``; None if this kernel has no such file."""
    try:
        return read(pid, name, proc)
    except NoSuchProcess:
        if (proc / str(pid)).exists():
            return None
        raise


def most_mappings(proc: Path = PROC) -> int:
    """Read vm.max_map_count, the most mappings of a process; Linux's default if unreadable."""
    return number_in(proc / "sys/vm/max_map_count") or 65530


def _is_pid(entry: str) -> bool:
    return entry.isascii() and entry.isdecimal() and len(entry) < 12


def _unescaped(written: bytes) -> bytes:
    """Undo the escapes of a name in ``status``: ``\\n`` for a newline, two backslashes for one.

    Source: ``proc_task_name`` in Linux fs/proc/array.c.
    """
    if b"\\" not in written:
        return written
    return b"\\".join(part.replace(b"\\n", b"\n") for part in written.split(b"\\\\"))
