"""``pagemerge run``: start a program with the agent inside."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from pagemerge.errors import PagemergeError, Unsupported, UsageError

LIBRARY = Path(__file__).parents[1] / "libpagemerge_preload.so"
"""The agent as a library; it is part of the package."""


class Run:
    """Start CMD so that the memory it marks with madvise(MADV_MERGEABLE) is merged.

    QEMU and other hypervisors do so by default. Nothing of the program has to change, and neither
    kernel KSM nor root is needed: equal pages of all programs of this user that were started so
    are kept once (--domain keeps some apart). See `pagemerge status` for what that saves.
    """

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        parser.add_argument("--engine", choices=["user"], default="user", help="who merges")
        parser.add_argument(
            "--barrier",
            choices=["auto", "move", "write-protect", "park"],
            default="auto",
            help="how writers are kept out for the moment of a merge",
        )
        parser.add_argument(
            "--domain",
            metavar="NAME",
            help="share pages only with programs of this user that were given the same NAME "
            "(PAGEMERGE_DOMAIN)",
        )
        parser.add_argument("--socket", type=Path, help="the hub's socket (PAGEMERGE_SOCKET)")
        parser.add_argument("command", nargs="+", metavar="CMD", help="the program, after --")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Become the program; returns only by an error (77: this host or user cannot)."""
        from pagemerge import _core
        from pagemerge.decide.trust import checked_name
        from pagemerge.merge.client import hub_command, socket_path

        domain = os.environ.get("PAGEMERGE_DOMAIN", "") if args.domain is None else args.domain
        if domain or args.domain is not None:
            checked_name(domain)
        program = find(args.command[0])
        barrier, reason = _core.probe_barrier(args.barrier)
        if _core.BARRIERS[barrier] == "intern":
            raise Unsupported(
                f"nothing can be merged behind a program here: {reason}; or, at the price that "
                "docs/hazards.md names: --barrier park"
            )
        path = str((args.socket or socket_path()).absolute())
        preload = [str(LIBRARY), *filter(None, [os.environ.get("LD_PRELOAD")])]
        os.environ.update(
            PAGEMERGE_SOCKET=path,
            PAGEMERGE_BARRIER=args.barrier,
            PAGEMERGE_DOMAIN=domain,
            PAGEMERGE_HUB="\n".join(hub_command(path)),
            LD_PRELOAD=":".join(preload),
        )
        try:
            os.execv(program, args.command)
        except OSError as error:
            raise PagemergeError(f"cannot run {program}: {error.strerror}") from error


def find(command: str) -> str:
    """The path of a program that a library can be preloaded into.

    Raises ``UsageError`` if there is none of that name, ``Unsupported`` if it is static or
    changes its user (ld.so(8)), and why.
    """
    program = shutil.which(command)
    if program is None:
        raise UsageError(f"no program {command!r}: give its path, or one that PATH finds")
    if not LIBRARY.exists():
        raise PagemergeError(f"{LIBRARY} is missing: pagemerge is not whole, install it again")
    status = Path(program).stat()
    if status.st_mode & 0o6000:
        raise Unsupported(f"{program} changes its user or group: nothing is preloaded into such")
    if _is_static(Path(program)):
        raise Unsupported(
            f"{program} is linked statically: nothing can be preloaded into it; kernel KSM can "
            "merge its memory"
        )
    return program


def _is_static(program: Path) -> bool:
    """Is it an ELF file without an interpreter (elf(5), PT_INTERP)? Scripts are not."""
    pt_interp = 3
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
