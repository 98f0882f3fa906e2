"""``pagemerge run``: start a program so that its memory is merged."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
from pathlib import Path

from pagemerge.errors import PagemergeError, Unsupported, UsageError
from pagemerge.linux.text import plain

LIBRARY = Path(__file__).parents[1] / "libpagemerge_preload.so"
"""The agent as a library; it is part of the package."""


class Run:
    """Start CMD so that its memory is merged.

    --engine user (the default) merges what the program marks with madvise(MADV_MERGEABLE); QEMU
    and other hypervisors do so. Nothing of the program has to change, and neither kernel KSM nor
    root is needed: equal pages of all programs of this user that were started so are kept once
    (--domain keeps some apart). See `pagemerge status` for what that saves.

    --engine kernel lets Linux (ksmd) merge all anonymous memory of any program, static ones too,
    with that of every other program on this host that is so marked: there is one trust domain.
    ksmd has to run, which is root's to decide.

    --engine auto takes the user engine where it can work for this program, else the kernel, and
    says which. It is not the default, because the kernel's trust domain is wider.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        parser.add_argument(
            "--engine", choices=["user", "kernel", "auto"], default="user", help="who merges"
        )
        parser.add_argument(
            "--barrier",
            choices=["auto", "move", "write-protect", "park"],
            default="auto",
            help="user engine: how writers are kept out for the moment of a merge",
        )
        parser.add_argument(
            "--domain",
            metavar="NAME",
            help="user engine: share pages only with programs of this user that were given the "
            "same NAME (PAGEMERGE_DOMAIN)",
        )
        parser.add_argument(
            "--socket", type=Path, help="user engine: the hub's socket (PAGEMERGE_SOCKET)"
        )
        parser.add_argument("command", nargs="+", metavar="CMD", help="the program, after --")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Become the program; returns only by an error (77: this host or user cannot)."""
        domain = domain_of(args)
        program = find(args.command[0])
        # Each refuses before it changes anything.
        {"user": with_user_engine, "kernel": with_kernel_engine, "auto": with_either}[args.engine](
            args, program, domain
        )
        # Python ignores it, and the program would: `pagemerge run -- CMD | head` has to end CMD.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            os.execv(program, args.command)
        except OSError as error:
            raise PagemergeError(f"cannot run {program}: {error.strerror}") from error


def domain_of(args: argparse.Namespace) -> str:
    """What narrows the trust domain; empty if nothing. Raises ``UsageError`` for a bad name."""
    from pagemerge.decide.trust import checked_name

    if args.domain is not None:
        return checked_name(args.domain)
    inherited = os.environ.get("PAGEMERGE_DOMAIN", "")
    return checked_name(inherited) if inherited else ""


def with_user_engine(args: argparse.Namespace, program: str, domain: str) -> None:
    """Have the program start with the agent inside; raises ``Unsupported`` if it cannot."""
    from pagemerge.merge.client import hub_command, socket_path
    from pagemerge.merge.prctl import merge_any, set_merge_any

    barrier_for(args.barrier, program)
    if merge_any():
        # A range belongs to one engine at a time.
        set_merge_any(False)
        say("switched off kernel KSM for this program, which was inherited (PR_SET_MEMORY_MERGE)")
    path = str((args.socket or socket_path()).absolute())
    os.environ.update(
        PAGEMERGE_SOCKET=path,
        PAGEMERGE_BARRIER=args.barrier,
        PAGEMERGE_DOMAIN=domain,
        PAGEMERGE_HUB="\n".join(hub_command(path)),
        LD_PRELOAD=":".join([str(LIBRARY), *preloads_of_others()]),
    )


def with_kernel_engine(args: argparse.Namespace, program: str, domain: str) -> None:
    """Have the program start with all its memory mergeable by ksmd, and without the agent.

    Raises ``UsageError`` for what only the user engine can do, ``Unsupported`` if the kernel
    cannot.
    """
    from pagemerge.merge.kernel import Ksm
    from pagemerge.merge.knobs import RUN
    from pagemerge.merge.prctl import set_merge_any

    if domain:
        raise UsageError(
            "kernel KSM knows one domain, the whole host: leave --domain and PAGEMERGE_DOMAIN out, "
            "or use --engine user"
        )
    if args.engine == "kernel" and (args.barrier != "auto" or args.socket):
        raise UsageError("--barrier and --socket are the user engine's: leave them out")
    set_merge_any(True)
    if others := preloads_of_others():
        os.environ["LD_PRELOAD"] = ":".join(others)
    else:
        os.environ.pop("LD_PRELOAD", None)
    ksm = Ksm()
    if (state := ksm.knobs().run) is None:
        say(f"{ksm.root} is not to be seen here, so whether ksmd runs is the host's to tell")
    elif state != RUN and ksm.driver() is None:
        start = f"pagemerge daemon --engine kernel, or echo 1 > {ksm.root}/run"
        say(f"ksmd is stopped, so nothing is merged yet; as root: {start}")


def with_either(args: argparse.Namespace, program: str, domain: str) -> None:
    """The user engine, which shares with this user alone, where it can work; else the kernel's."""
    try:
        barrier = barrier_for(args.barrier, program)
    except Unsupported as lack:
        try:
            with_kernel_engine(args, program, domain)
        except (Unsupported, UsageError) as another:
            raise Unsupported(f"user engine: {lack}; kernel engine: {another}") from None
        say(f"kernel engine, one domain for the whole host, because the user engine cannot: {lack}")
    else:
        with_user_engine(args, program, domain)
        say(f"user engine ({barrier}), which shares pages with programs of this user alone")


def say(line: str) -> None:
    """Tell people, on stderr: stdout is the program's."""
    print(f"pagemerge run: {plain(line)}", file=sys.stderr)


def find(command: str) -> str:
    """The path of a program. Raises ``UsageError`` if there is none of that name."""
    program = shutil.which(command)
    if program is None:
        raise UsageError(f"no program {command!r}: give its path, or one that PATH finds")
    return program


def barrier_for(wanted: str, program: str) -> str:
    """The barrier that the user engine gets with a program.

    Raises ``Unsupported`` if there is none, or the program is static or changes its user, so that
    nothing is preloaded into it (ld.so(8)).
    """
    from pagemerge import _core

    if not LIBRARY.exists():
        raise PagemergeError(f"{LIBRARY} is missing: pagemerge is not whole, install it again")
    if Path(program).stat().st_mode & 0o6000:
        raise Unsupported(
            f"{program} changes its user or group: nothing is preloaded into such; kernel KSM can "
            "merge its memory (--engine kernel)"
        )
    if _is_static(Path(program)):
        raise Unsupported(
            f"{program} is linked statically: nothing can be preloaded into it; kernel KSM can "
            "merge its memory (--engine kernel)"
        )
    barrier, reason = _core.probe_barrier(wanted)
    if _core.BARRIERS[barrier] == "intern":
        raise Unsupported(
            f"nothing can be merged behind a program here: {reason}; or, at the price that "
            "docs/hazards.md names: --barrier park"
        )
    return _core.BARRIERS[barrier]


def preloads_of_others() -> list[str]:
    """What LD_PRELOAD names beside our own library, of whatever installation (ld.so(8))."""
    words = re.split(r"[: ]+", os.environ.get("LD_PRELOAD", ""))
    return [word for word in words if word and Path(word).name != LIBRARY.name]


def _is_static(program: Path) -> bool:
    """Is it an ELF file without an interpreter (elf(5), PT_INTERP)? Scripts are not.

    Nor is, as far as is known, what may be run but not read.
    """
    pt_interp = 3
    if not os.access(program, os.R_OK):
        return False
    with program.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return False
        at, size, count = (
            int.from_bytes(head[32:40], "little"),
            int.from_bytes(head[54:56], "little"),
            int.from_bytes(head[56:58], "little"),
        )
        file.seek(at)
        table = file.read(size * count)
    kinds = (int.from_bytes(table[row : row + 4], "little") for row in range(0, len(table), size))
    return pt_interp not in kinds
