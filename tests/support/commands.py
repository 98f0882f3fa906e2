"""The command line, run to its end: by us, or by another user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from tests.conftest import missing

PAGEMERGE = [sys.executable, "-m", "pagemerge"]
NOBODY = 65534

_OTHER_MOUNTS = ["unshare", "--mount", "sh", "-c"]

# Who cannot read our modules has them imported before it becomes that user.
_AS_USER = """
import ctypes, json, locale, os, re, select, shutil, sys, traceback
import pagemerge.cli.streams
import pagemerge.cli.attach, pagemerge.cli.daemon, pagemerge.cli.detach, pagemerge.cli.doctor
import pagemerge.cli.run, pagemerge.hub.decide.trust, pagemerge.ksmd.governor
import pagemerge.ksmd.attach, pagemerge.ksmd.merged, pagemerge.linux.knobs
import pagemerge.hub.reach, pagemerge.linux.ksm, pagemerge.linux.program
import pagemerge.hub.preload, pagemerge.linux.prctl
import pagemerge.linux.host, pagemerge.linux.accounts
import pagemerge.config, pagemerge.service.supervisor, pagemerge.service.reload
import pagemerge.ksmd.borrowing, pagemerge.hub.listening, pagemerge.linux.aside
import rich.console, rich.table
uid = int(sys.argv.pop(1))
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable, as a program of that user is from its start
from pagemerge.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(
    *words: str, user: int | None = None, before: Sequence[str] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """``pagemerge WORDS``, as that user; ``before`` goes before its command line."""
    argv = [*PAGEMERGE, *words]
    if user is not None:
        argv = [sys.executable, "-c", _AS_USER, str(user), *words]
    return subprocess.run(
        [*before, *argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **env},
    )


def elsewhere(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pagemerge where ``script`` has changed the mounts, for it alone; skips if it may not."""
    probe = subprocess.run([*_OTHER_MOUNTS, script], capture_output=True, text=True, check=False)
    if probe.returncode:
        missing("mounts", f"mounts cannot be changed here: {probe.stderr.strip()}")
    return command(*words, before=[*_OTHER_MOUNTS, f'{script} && exec "$@"', "sh"])
