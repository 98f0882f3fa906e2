"""Runs a command beside a process that keeps its readers waiting.

``turning.py PROGRAM turn|lock SECONDS COMMAND...``, with ``turning.c`` compiled; ``{pid}`` in the
command is replaced. Says what the command printed, or ``no such file here: ...``. Exit status: that
of the command; 124 if it did not end in time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.endless import EndlessFile


def main() -> int:
    """Start both."""
    program, how, seconds, *command = sys.argv[1:]
    try:
        with EndlessFile(None, failures=2 if how == "lock" else 0) as file:
            words = [program, str(file.descriptor), *(["lock"] if how == "lock" else [])]
            with subprocess.Popen(words, stdout=-1, pass_fds=[file.descriptor]) as running:
                assert running.stdout
                assert running.stdout.readline() == b"ready\n"
                asked = [word.replace("{pid}", str(running.pid)) for word in command]
                with subprocess.Popen(asked) as done:
                    try:
                        return done.wait(float(seconds))
                    except subprocess.TimeoutExpired:
                        return 124
                    finally:
                        # The file answers from now on, so that both can end.
                        file.end()
                        running.kill()
                        done.kill()
    except OSError as error:
        print(f"no such file here: {error}", flush=True)
        return 0


if __name__ == "__main__":
    sys.exit(main())
