"""``pagemerge run``: start a program so that its memory is merged."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pagemerge import _core
from pagemerge.cli import as_path, as_size
from pagemerge.cli.show.words import starting
from pagemerge.errors import PagemergeError, Unsupported, UsageError
from pagemerge.linux.text import plain

if TYPE_CHECKING:
    from pagemerge.linux.knobs import Standstill
    from pagemerge.linux.ksm import Ksm
    from pagemerge.linux.process import Stat

STARTED = ("PAGEMERGE_ENGINE", "kernel")
"""Variable in the environment of programs that were started for kernel KSM, and its value."""


FROM = 64 << 10
"""Bytes from which ``--all`` merges mappings: smaller ones are many, and hold little."""


class Run:
    """Start CMD so that its memory is merged.

    --engine user (the default) merges the memory that the program marks with
    madvise(MADV_MERGEABLE), as QEMU and other hypervisors do. The program does not have to change,
    and kernel KSM is not needed. Root, or a setting of the host that `pagemerge doctor` names, has
    to allow userfaultfd. All programs that this user starts in this way share one copy of equal
    pages (--domain keeps some apart). `pagemerge status` shows what that saves. run refuses
    programs that it cannot preload a library into: static ones, 32-bit ones, those of musl, and
    those with rights of their own (set-id, file capabilities). If no memory could be merged, one
    line on stderr says why when the program ends, unless the program has closed stderr.

    --all merges all private anonymous memory of the program and of the programs that it starts,
    whether they mark it or not: what they map, and what malloc gives them, for which an allocator
    that the hub can work with (mimalloc) takes the place of libc's. A program with an allocator of
    its own keeps that. Memory for which the program asks for huge pages starts with small ones; the
    hub makes blocks of 2 MiB huge of which it merges little.

    --engine kernel lets Linux (ksmd) merge all anonymous memory of any program, static ones too,
    with the memory of every other program on this host that is marked so: there is one trust
    domain. ksmd must run, and only root can start it.

    --engine auto takes the user engine if it can work for this program, else the kernel if ksmd
    runs, and says which. It is not the default, because the kernel's trust domain is wider.

    Exit status: the program's own. If the program does not start: 2 for wrong usage (also if there
    is no such program), 1 if the kernel refuses to execute it, 77 if the engine cannot work on this
    host or for this program.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        parser.usage = (
            "%(prog)s [-h] [--engine {user,kernel,auto}] [--all] [--from SIZE]\n"
            "                     [--barrier BARRIER] [--domain NAME] [--socket SOCKET]\n"
            "                     [--quiet] -- CMD [ARG ...]"
        )
        parser.add_argument(
            "--engine",
            choices=["user", "kernel", "auto"],
            default="user",
            help="engine to use (default: user)",
        )
        parser.add_argument(
            "--all",
            action="store_true",
            help="user engine: merge all private anonymous memory of the program, marked or not",
        )
        parser.add_argument(
            "--from",
            dest="least",
            metavar="SIZE",
            type=as_size,
            help="with --all: leave mappings alone that are smaller than this (default: 64K)",
        )
        parser.add_argument(
            "--barrier",
            choices=["auto", *(it for it in _core.BARRIERS.values() if it != "intern")],
            help="user engine: barrier to use (default: PAGEMERGE_BARRIER, else auto)",
        )
        parser.add_argument(
            "--domain",
            metavar="NAME",
            help="user engine: share pages only with programs of this user that were given the "
            "same NAME (default: PAGEMERGE_DOMAIN)",
        )
        parser.add_argument(
            "--socket",
            type=as_path,
            help="user engine: socket of the hub (default: PAGEMERGE_SOCKET)",
        )
        parser.add_argument(
            "--quiet",
            action="store_true",
            help="print nothing on stderr, except why CMD cannot start",
        )
        parser.add_argument(
            "command", nargs="+", metavar="CMD", help="the program and its arguments, after --"
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Become the program; returns only by raising an error."""
        from pagemerge.hub.note import take_away

        domain = domain_of(args)
        if args.least is not None and not args.all:
            raise UsageError("--from SIZE goes with --all")
        if args.least == 0:
            raise UsageError("--from 0: the size is at least 1 (a byte)")
        program = find(args.command[0])
        # Each function raises its errors before it changes anything.
        {"user": with_user_engine, "kernel": with_kernel_engine, "auto": with_either}[args.engine](
            args, program, domain
        )
        # Python ignores SIGPIPE, and the program would inherit that. But with
        # `pagemerge run -- CMD | head`, the signal has to end CMD.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            os.execv(program, args.command)
        except OSError as error:
            take_away()
            raise PagemergeError(f"cannot run {program}: {why_it_fails(program, error)}") from error


def domain_of(args: argparse.Namespace) -> str:
    """Return the name that narrows the trust domain; empty if there is none.

    Raises ``UsageError`` for an invalid name.
    """
    from pagemerge.hub.decide.trust import checked_name

    if args.domain is not None:
        return checked_name(args.domain)
    inherited = os.environ.get("PAGEMERGE_DOMAIN", "")
    return checked_name(inherited) if inherited else ""


def with_user_engine(args: argparse.Namespace, program: str, domain: str) -> None:
    """Set up the program to start with the agent inside; raises ``Unsupported`` if it cannot."""
    from pagemerge.hub import note, preload, reach
    from pagemerge.linux.prctl import merge_any, set_merge_any, why_not

    wanted = args.barrier or reach.barrier()
    try:
        barrier_for(wanted, program)
    except Unsupported as lack:
        another = why_not()
        cure = f"nor can Linux: {another}" if another else f"Linux can{once()}: --engine kernel"
        raise Unsupported(f"{lack}; {cure}") from None
    if merge_any():
        # A range belongs to one engine at a time.
        set_merge_any(False)
        say(
            args,
            "switched off kernel KSM, which this program had inherited (PR_SET_MEMORY_MERGE)",
        )
    os.environ.pop(note.VARIABLE, None)
    library = preload.LIBRARY_FOR_ALL if args.all else preload.LIBRARY
    path = str((args.socket or reach.socket_path()).absolute())
    if not args.quiet:
        kernel = "" if why_not() else f"which merges all memory of a program{once()}"
        note.leave(program, kernel, path, everything=args.all)
    os.environ.update(
        PAGEMERGE_SOCKET=path,
        PAGEMERGE_BARRIER=wanted,
        PAGEMERGE_DOMAIN=domain,
        PAGEMERGE_HUB="\n".join(reach.hub_command(path)),
        LD_PRELOAD=":".join([str(library), *preload.of_others()]),
    )
    if args.all:
        os.environ["PAGEMERGE_FROM"] = str(args.least or FROM)


def with_kernel_engine(args: argparse.Namespace, program: str, domain: str) -> None:
    """Set up the program to start with all its memory mergeable by ksmd, and without the agent.

    Raises ``UsageError`` for options that only the user engine has, ``Unsupported`` if the kernel
    cannot merge whole programs.
    """
    from pagemerge.hub import preload
    from pagemerge.linux.ksm import Ksm
    from pagemerge.linux.prctl import set_merge_any

    if domain:
        raise UsageError(
            "kernel KSM knows one domain, the whole host: leave --domain and PAGEMERGE_DOMAIN out, "
            "or use --engine user"
        )
    if args.engine == "kernel" and args.all:
        raise UsageError("the kernel engine always merges all memory: leave --all out")
    if args.engine == "kernel" and (args.barrier not in (None, "auto") or args.socket):
        raise UsageError("only the user engine has --barrier and --socket: leave them out")
    set_merge_any(True)
    os.environ[STARTED[0]] = STARTED[1]
    preload.leave_out()
    ksm = Ksm()
    stands = stands_still(ksm)
    if not stands or is_another_there():
        return
    if ksm.knobs().run is None:
        say(args, f"{ksm.root} is not visible here: check on the host whether ksmd runs")
    else:
        say(args, f"{stands.reason}, so nothing is merged yet; {starting(stands, ksm.root)}")


def stands_still(ksm: Ksm) -> Standstill | None:
    """Say why ksmd merges nothing; None also if a governor runs, which starts ksmd when it pays."""
    from pagemerge.linux.knobs import standstill

    stands = standstill(ksm.knobs())
    return stands if stands and ksm.driver() is None else None


def once() -> str:
    """Say what Linux needs before it can merge at all; empty if nothing."""
    from pagemerge.linux.ksm import Ksm

    return ", once root lets ksmd run" if stands_still(Ksm()) else ""


def is_another_there() -> bool:
    """Was an older program of this session started for kernel KSM? Then `run` has printed the
    message about ksmd already."""
    from pagemerge.linux.aside import readers
    from pagemerge.linux.process import pids, stat

    own, found = stat(os.getpid()), pids()
    try:
        told = readers.quick(_was_started_before, found, [(pid, os.getpid(), own) for pid in found])
    finally:
        readers.close()  # the program that takes our place must not have them as children
    return any(it is True for it in told)


def _was_started_before(pid: int, own_pid: int, own: Stat) -> bool:
    """Is ``pid`` an older program of our session that was started for kernel KSM?"""
    from pagemerge.linux.ksm import process_ksm
    from pagemerge.linux.process import read, stat

    other = stat(pid)
    older = (other.start_time, pid) < (own.start_time, own_pid)
    # An attached process does not count: attach may not have printed the message about ksmd, or it
    # may be out of date.
    if not (older and other.session == own.session and process_ksm(pid).merge_any):
        return False
    return "=".join(STARTED).encode() in read(pid, "environ").split(b"\0")


def with_either(args: argparse.Namespace, program: str, domain: str) -> None:
    """Use the user engine, which shares pages with this user only, if it can work for the program;
    else use the kernel engine."""
    from pagemerge.hub import reach
    from pagemerge.linux.ksm import Ksm

    try:
        barrier = barrier_for(args.barrier or reach.barrier(), program)
    except Unsupported as lack:
        ksm = Ksm()
        stands = stands_still(ksm)
        if stands and ksm.knobs().run is not None:
            another = f"{stands.reason}; {starting(stands, ksm.root)}"
            raise Unsupported(f"user engine: {lack}; kernel engine: {another}") from None
        try:
            with_kernel_engine(args, program, domain)
        except (Unsupported, UsageError) as another:
            raise Unsupported(f"user engine: {lack}; kernel engine: {another}") from None
        say(
            args,
            f"kernel engine, one domain for the whole host, because the user engine cannot: {lack}",
        )
    else:
        with_user_engine(args, program, domain)
        say(args, f"user engine ({barrier}), which shares pages with programs of this user only")


def say(args: argparse.Namespace, line: str) -> None:
    """Print a line for the user on stderr, because stdout belongs to the program."""
    if not args.quiet:
        print(f"pagemerge run: {plain(line)}", file=sys.stderr)


def find(command: str) -> str:
    """Find the path of a program. Raises ``UsageError`` if there is none of that name."""
    program = shutil.which(command)
    if program is None:
        if command and Path(command).is_dir():
            raise UsageError(f"{command!r} is a folder, not a program")
        if os.path.dirname(command) and Path(command).exists():  # noqa: PTH120 - as which does
            raise UsageError(f"{command!r} is not executable: chmod +x, or name its interpreter")
        raise UsageError(f"no program {command!r}: give its path, or one that PATH finds")
    return program


def barrier_for(wanted: str, program: str) -> str:
    """Find the barrier that the user engine gets with a program.

    Raises ``Unsupported`` with the reason if there is none, or the agent cannot be loaded into it.
    """
    from pagemerge.hub.preload import obstacle

    if reason := obstacle(Path(program)):
        raise Unsupported(reason)
    barrier, reason = _core.probe_barrier(wanted)
    if _core.BARRIERS[barrier] == "intern":
        raise Unsupported(
            f"no merging in the background here. {reason}. Or use --barrier park, which stops all "
            "threads at each merge and so may end their system calls early"
        )
    return _core.BARRIERS[barrier]


def why_it_fails(program: str, error: OSError) -> str:
    """Say why the kernel refuses to execute ``program``, and the cure."""
    from pagemerge.linux.program import elf, interpreters

    *_, last = chain = interpreters(Path(program))
    if error.errno == errno.ENOEXEC:
        return "it is neither a program for this machine nor a script: its first line has no #!"
    if error.errno != errno.ENOENT:
        return str(error.strerror)
    if len(chain) > 1 and not last.exists():
        return f"its interpreter {last} is missing: correct the #! of {chain[-2]}"
    if (found := elf(last)) and found.loader and not Path(found.loader).exists():
        return f"its loader {found.loader} is missing: install the C library that it needs"
    return str(error.strerror)
