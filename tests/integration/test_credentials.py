"""Programs that change their credentials while an agent's thread is in them.

libc has all threads change them, and aborts the program if one of them may not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import missing
from tests.support.hubs import Hub

NOBODY = 65534

# It keeps its capabilities over setresuid (PR_SET_KEEPCAPS), for its own thread alone.
KEEPS = f"""
import ctypes, json, os, sys, time

libc = ctypes.CDLL(None, use_errno=True)
held = [bytes([it]) * (1 << 16) for it in range(200)]
deadline = time.monotonic() + 20
while len(os.listdir("/proc/self/task")) < 2:
    held.append(bytes(1 << 16))
    assert time.monotonic() < deadline, "no agent has come"
    time.sleep(0.05)
libc.prctl(8, 1, 0, 0, 0)
answers = [libc.setresuid(*[{NOBODY}] * 3)]
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
data = (ctypes.c_uint32 * 6)()
libc.capget(header, data)
data[0], data[3] = data[1], data[4]
answers += [libc.capset(header, data), libc.setresgid(*[{NOBODY}] * 3), libc.setgroups(0, None)]
print(json.dumps(dict(answers=answers, users=os.getresuid(), groups=os.getresgid())))
assert all(part == bytes([part[0]]) * (1 << 16) for part in held)
"""


@pytest.mark.parametrize("marks", [False, True])
def test_a_program_may_keep_its_capabilities(hub: Hub, marks: bool) -> None:
    if os.geteuid() != 0:
        missing("root", "only root can change users and keep capabilities")
    mark = "import mmap\none = mmap.mmap(-1, 1 << 20, flags=34)\none.madvise(12)\n"
    words = ["--"] if marks else ["--all", "--"]
    code = mark + KEEPS if marks else KEEPS
    done = subprocess.run(
        [sys.executable, "-m", "pagemerge", "run", "--quiet", *words, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **hub.env},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == {"answers": [0] * 4, "users": [NOBODY] * 3, "groups": [NOBODY] * 3}
