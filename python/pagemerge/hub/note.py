"""The note with which ``pagemerge run`` tells, when a program ends, what was merged of it, or why
nothing was.

The processes of the program write into the note what they mark, and what was merged of them. At its
end, the process that ``pagemerge run`` started removes the note and prints one line
(``crates/preload/src/note.rs``).
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from pagemerge.hub.reach import own_directory
from pagemerge.linux.text import plain

VARIABLE = "PAGEMERGE_NOTE"
"""PID:DEVICE:INODE:PATH: the process that prints, its standard error, and the path of the note."""

_UNMARKED, _SMALL = b"1\n", b"5\n"
"""The number of the line to print, as long as nothing was marked; the same with ``--all``, as long
as there is too little memory."""
_MOST_NAME = 60

SWITCHES = {
    "qemu": ("-machine mem-merge=on", "a memory backend with share=off"),
    "kvm": ("-machine mem-merge=on", "a memory backend with share=off"),
    "cloud-hypervisor": ("--memory mergeable=on", "--memory shared=off"),
}
"""Start of a program's name -> the options that mark its memory, and that make the memory private.
"""


def leave(program: str, kernel: str, socket: str, *, everything: bool) -> None:
    """Leave a note for this process, which then executes ``program``; the environment names the
    note.

    ``kernel``: what the kernel engine could do for the program, empty if nothing; ``socket``: the
    path of its hub; ``everything``: all memory is merged, marked or not. If no note can be left,
    nothing is printed at the end.
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
            (_SMALL if everything else _UNMARKED)
            + "".join(f"{line}\n" for line in _lines(program, kernel, socket)).encode()
        )
    except OSError:
        return
    os.environ[VARIABLE] = f"{os.getpid()}:{stderr.st_dev}:{stderr.st_ino}:{note}"


def take_away() -> None:
    """Remove the note: this process merges memory without marking it (the Python API)."""
    if path := os.environ.get(VARIABLE, "").split(":", 3)[3:]:
        with suppress(OSError):
            Path(path[0]).unlink()


def _clear(folder: Path) -> None:
    """Remove the notes of programs that were killed."""
    for old in folder.glob("run-*"):
        pid = old.name.partition("-")[2]
        if re.fullmatch("[0-9]{1,9}", pid) and not Path(f"/proc/{pid}").exists():
            old.unlink(missing_ok=True)


def _lines(program: str, kernel: str, socket: str) -> tuple[str, ...]:
    """Return a line for each case: the program marked nothing; it marked only shared memory; it
    marked only memory of another kind; no hub answered; it had little memory; its memory was equal
    to no other. And the start of the line with figures."""
    name = plain(Path(program).name, _MOST_NAME)
    who = f"pagemerge run: nothing of {name} was merged: "
    mark, private = next(
        (words for start, words in SWITCHES.items() if name.startswith(start)), ("", "")
    )
    engine = f"--engine kernel, {kernel}" if kernel else ""
    marked = " or ".join(filter(None, [mark, "--all", engine]))
    return (
        f"{who}it marked no memory as mergeable (madvise(2)): try {marked}",
        f"{who}it marked shared memory only, and no engine merges that: give it private memory"
        f"{private and f' ({private})'}",
        f"{who}it marked memory only that this engine leaves alone, such as malloc's: try --all"
        f"{engine and ' or ' + engine}",
        f"{who}no hub answers at {plain(socket)}, and none could be started there: "
        "`pagemerge daemon --socket` with that path shows why",
        f"{who}it had too little memory (less than 4 MB), or ended too soon",
        f"{who}it held no pages for long that were equal to others of its trust domain",
        f"pagemerge run: {name}",
    )
