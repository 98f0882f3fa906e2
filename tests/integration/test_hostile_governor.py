"""The governor goes on beside hostile processes, and its log is a line a record."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ksm as lab
from tests.support.building import VICTIMS
from tests.support.commands import PAGEMERGE
from tests.support.hostile import assert_plain

pytestmark = pytest.mark.requires("kernel")

NAME = b"\x1b[2J\n1\xff"
FORGED = b"a\r2026-01-01 00:00:00,000 process 1 (init) is in"
RULE = '[[rule]]\nopt = "in"\ncommand = "*hostile.py*"\n[kernel]\nacross_users = true\n'


def test_its_log_cannot_be_forged(tmp_path: Path) -> None:
    settings, config, log = (tmp_path / name for name in ("settings", "config", "log"))
    mapped = os.path.join(os.fsencode(tmp_path), FORGED.replace(b"/", b""))  # noqa: PTH118
    settings.write_text(f"{NAME.hex()}\n{mapped.hex()}\n")
    config.write_text(RULE)
    victim = [sys.executable, str(VICTIMS / "hostile.py"), str(settings)]
    governor = [*PAGEMERGE, "daemon", "--engine", "kernel", "--dry-run", "--config", str(config)]
    with (
        lab.borrowed(),
        log.open("wb") as out,
        subprocess.Popen(victim, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
        subprocess.Popen(governor, stdout=out, stderr=out) as daemon,
    ):
        try:
            assert process.stdout and process.stdout.readline()
            deadline = time.monotonic() + 30
            while b"rule 1" not in log.read_bytes():
                assert daemon.poll() is None, log.read_bytes()
                assert time.monotonic() < deadline, log.read_bytes()
                time.sleep(0.05)
            assert daemon.poll() is None
        finally:
            process.kill()
            daemon.terminate()
        assert daemon.wait(30) == 0
    shown = log.read_bytes().decode()
    assert_plain(shown)
    for line in shown.split("\n")[:-1]:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line), line
    (told,) = (line for line in shown.split("\n") if f"process {process.pid} " in line)
    assert r"\x1b[2J\n1\xff" in told
