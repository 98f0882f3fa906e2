"""The note that ``pagemerge run`` leaves for the end of a program of which nothing was merged.

The first process of the program that marks memory which the user engine can merge takes it away;
what is left is told in one line by the process that was started (``crates/preload/src/note.rs``).
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from pagemerge.hub.reach import own_directory
from pagemerge.linux.text import plain

VARIABLE = "PAGEMERGE_NOTE"
"""PID:DEVICE:INODE:PATH: who tells, what its standard error was, and the note."""

_FIRST = b"1\n"
"""Which line is told, before anything was marked."""
_MOST_NAME = 60

SWITCHES = {
    "qemu": ("-machine mem-merge=on", "a memory backend with share=off"),
    "kvm": ("-machine mem-merge=on", "a memory backend with share=off"),
    "cloud-hypervisor": ("--memory mergeable=on", "--memory shared=off"),
}
"""How a program's name begins -> what has it mark its memory, and what makes that private."""


def leave(program: str, kernel: str, socket: str) -> None:
    """Leave a note for this process, which is to become ``program``; the environment names it.

    ``kernel``: what the kernel engine could do for it, empty if nothing; ``socket``: where its hub
    is. Where no note can be left, nothing is told at the end.
    """
    try:
        folder, stderr = own_directory(), os.fstat(2)
        folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        about = folder.lstat()
        if about.st_uid != os.geteuid() or about.st_mode & 0o22:
            return
        _clear(folder)
        note = folder / f"run-{os.getpid()}"
        note.write_bytes(
            _FIRST + "".join(f"{line}\n" for line in _lines(program, kernel, socket)).encode()
        )
    except OSError:
        return
    os.environ[VARIABLE] = f"{os.getpid()}:{stderr.st_dev}:{stderr.st_ino}:{note}"


def take_away() -> None:
    """This process merges memory by other means than marking it (the Python API)."""
    if path := os.environ.get(VARIABLE, "").split(":", 3)[3:]:
        with suppress(OSError):
            Path(path[0]).unlink()


def _clear(folder: Path) -> None:
    """Notes of programs that were killed are of no use."""
    for old in folder.glob("run-*"):
        pid = old.name.partition("-")[2]
        if re.fullmatch("[0-9]{1,9}", pid) and not Path(f"/proc/{pid}").exists():
            old.unlink(missing_ok=True)


def _lines(program: str, kernel: str, socket: str) -> tuple[str, str, str, str]:
    """Nothing was marked; only shared memory was; only memory of another kind was; no hub came."""
    name = plain(Path(program).name, _MOST_NAME)
    who = f"pagemerge run: nothing of {name} was merged: "
    mark, private = next(
        (words for start, words in SWITCHES.items() if name.startswith(start)), ("", "")
    )
    engine = f"--engine kernel, {kernel}" if kernel else ""
    marked = " or ".join(filter(None, [mark, engine]))
    return (
        f"{who}it marked no memory as mergeable (madvise(2)){marked and ': try ' + marked}",
        f"{who}it marked shared memory only, and no engine merges that: give it private memory"
        f"{private and f' ({private})'}",
        f"{who}it marked memory only that this engine leaves alone, such as malloc's"
        f"{engine and ': try ' + engine}",
        f"{who}no hub answers at {plain(socket)}, nor could one be started there: "
        "`pagemerge daemon --socket` with that path tells why",
    )
