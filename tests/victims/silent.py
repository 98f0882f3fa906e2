"""Asks whether a process can be attached whose text lies in a file that never answers.

``silent.py PROGRAM``, with ``silent_text.c`` compiled. Says ``answers`` or ``waits``, or why there
is no such file here.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.endless import EndlessFile

from pagemerge import _core
from pagemerge.errors import PagemergeError

PATIENCE = 10.0


def ask(go: int) -> None:
    """Wait for a pid, and ask about it."""
    pid = int(os.read(go, 20))
    try:
        _core.inject_check(pid)
    except PagemergeError as error:
        print(error, file=sys.stderr)
    os._exit(0)


def main() -> None:
    """Start both, and say which it is."""
    go, tell = os.pipe()
    asker = os.fork()
    if not asker:
        ask(go)
    try:
        with EndlessFile(asker) as file:
            words = [sys.argv[1], str(file.descriptor)]
            with subprocess.Popen(words, stdout=-1, pass_fds=[file.descriptor]) as program:
                assert program.stdout
                assert program.stdout.readline() == b"ready\n"
                os.write(tell, str(program.pid).encode())
                ended = select.select([os.pidfd_open(asker)], [], [], PATIENCE)[0]
                print("answers" if ended else "waits", flush=True)
                program.kill()
    except OSError as error:
        print(f"no such file here: {error}", flush=True)
        os.kill(asker, 9)


if __name__ == "__main__":
    main()
