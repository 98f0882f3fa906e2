"""Guests of libvirt, by the command lines that libvirt 9.0 wrote: ``<nosharepages/>`` is kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pagemerge.demo.dialog import end
from pagemerge.linux.ksm import Ksm, is_mergeable
from tests.integration.test_governor import governed, ksm
from tests.support.commands import command
from tests.support.hubs import ALONE

__all__ = ["ksm"]  # a fixture

ARGUMENTS = Path(__file__).parents[1] / "unit" / "linux" / "libvirt"
READY = "import sys; print(flush=True); sys.stdin.read()"

pytestmark = pytest.mark.requires("kernel", "root")


@pytest.fixture
def guests() -> Iterator[dict[str, int]]:
    """Processes with the arguments of two guests of libvirt: file -> pid."""
    with ExitStack() as stack:
        found = {}
        for name in ("plain", "nosharepages"):
            program, *words = (ARGUMENTS / f"{name}.args").read_text().split("\n")[:-1]
            process = subprocess.Popen(
                [program, "-c", READY, *words],
                executable=sys.executable,
                stdin=subprocess.PIPE,  # which ends with us, however that happens
                stdout=subprocess.PIPE,
            )
            stack.callback(end, process)
            assert process.stdin and process.stdout
            stack.enter_context(process.stdin)
            stack.enter_context(process.stdout)
            assert process.stdout.readline() == b"\n"
            found[name] = process.pid
        yield found


def test_no_rule_opts_in_a_guest_with_nosharepages(
    ksm: Ksm, guests: dict[str, int], tmp_path: Path
) -> None:
    config = tmp_path / "rules.toml"
    config.write_text(
        '[kernel]\nacross_users = true\n[[rule]]\nguest = "*"\nopt = "in"\n'
        f'[[rule]]\ncommand = "*{READY}*"\nopt = "in"\n' + ALONE
    )
    with governed(tmp_path, "--config", str(config)) as daemon:
        daemon.until(lambda: is_mergeable(guests["plain"]), "opt in the other guest")
        lines = [
            it for it in daemon.log().split("\n") if f"process {guests['nosharepages']} " in it
        ]
        assert len(lines) == 1 and "mem-merge=off (libvirt: <nosharepages/>)" in lines[0], lines
        assert daemon.stop() == 0
    assert not is_mergeable(guests["nosharepages"])


def test_doctor_names_it(guests: dict[str, int]) -> None:
    told = command("doctor").stdout
    assert "with mem-merge=off: " in told and "quiet,guest=web" in told
    assert "no rule opts them in; for libvirt, remove <nosharepages/>" in told
