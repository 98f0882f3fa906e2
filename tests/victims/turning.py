"""Runs a command beside a process that keeps its readers waiting.

``turning.py PROGRAM turn|lock|exec SECONDS COMMAND...``, with ``turning.c`` compiled; ``{pid}`` in
the command is replaced. Says what the command printed, or ``no such file here: ...``. Exit status:
that of the command; 124 if it did not end in time.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.endless import EndlessFile


def started(command: list[str]) -> tuple[int, int]:
    """Fork who will run the command when it is told a pid; returns it, and where to tell it.

    Before there is such a file: who has it open waits for it when it closes it.
    """
    told, tell = os.pipe()
    if child := os.fork():
        os.close(told)
        return child, tell
    os.close(tell)
    pid = os.read(told, 20).decode()
    if pid:
        words = [word.replace("{pid}", pid) for word in command]
        os.execvp(words[0], words)
    os._exit(0)


def status_of(child: int, seconds: float) -> int:
    """Wait for a child; 124 if it takes longer."""
    if not select.select([os.pidfd_open(child)], [], [], seconds)[0]:
        return 124
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Start both."""
    program, how, seconds, *command = sys.argv[1:]
    child, tell = started(command)
    failures, status = 2 if how == "lock" else 0, 124
    try:
        with EndlessFile(None, failures, writes=how == "exec") as file:
            words = [program, str(file.descriptor), *([how] if how != "turn" else [])]
            with subprocess.Popen(words, stdout=-1, pass_fds=[file.descriptor]) as running:
                assert running.stdout
                assert running.stdout.readline() == b"ready\n"
                os.write(tell, str(running.pid).encode())
                status = status_of(child, float(seconds))
                # The file answers from now on, so that all can end.
                file.end()
                running.kill()
                if status == 124:
                    os.kill(child, 9)
    except OSError as error:
        print(f"no such file here: {error}", flush=True)
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
