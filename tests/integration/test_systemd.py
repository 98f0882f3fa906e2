"""The service under a real systemd, with its own unit files: PID 1 of namespaces of the test."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.ksmd.borrowing import NOTE
from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import Ksm
from tests.support.api import AS_USER
from tests.support.building import VICTIMS
from tests.support.commands import NOBODY
from tests.support.hubs import FAST
from tests.support.services import odd_knobs
from tests.support.systemd import PATIENCE, Systemd, booted

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "systemd"
SOCKET = "/run/pagemerge/hub.sock"
API = "/run/pagemerge/api.sock"
STATUS = '{"method":"org.pagemerge.Status"}'
PAGES, SHARED = 256, 4096
RULE = '[[rule]]\ncommand = "*sharer.py plain guest"\nopt = "in"\n'
CONFIG = f'[service]\nengines = ["user", "kernel"]\n{FAST}'

pytestmark = [pytest.mark.requires("kernel", "root"), pytest.mark.timeout(300)]


@pytest.fixture
def before() -> Iterator[Knobs]:
    with odd_knobs() as knobs:
        yield knobs


@pytest.fixture
def systemd(before: Knobs, tmp_path: Path) -> Iterator[Systemd]:
    """A systemd with our units as they are, but for the path of the program."""
    units = tmp_path / "units"
    units.mkdir()
    for name in ("pagemerge.service", "pagemerge.socket"):
        shutil.copy(DEPLOY / name, units)
    program = f"{sys.executable} -m pagemerge daemon"
    changes = (
        "[Service]\nExecStart=\nExecStopPost=\n"
        f"ExecStart={program} --config /run/pagemerge.toml --verbose\n"
        f"ExecStopPost=-{program} --put-back\nWatchdogSec=20\n"
    )
    if Path(sys.base_prefix).is_relative_to("/root") or ROOT.is_relative_to("/home"):
        changes += "ProtectHome=read-only\n"  # this Python lies there
    own = units / "pagemerge.service.d"
    own.mkdir()
    if version() < 253:
        shutil.copy(DEPLOY / "older-systemd.conf", own)
    (own / "test.conf").write_text(changes)
    (units / "default.target").write_text(
        "[Unit]\nDescription=Test\nRequires=systemd-journald.service\n"
    )
    (units / "pagemerge.toml").write_text(CONFIG + RULE)
    with booted(units) as running:
        yield running


def version() -> int:
    """The version of this host's systemd. ``Type=notify-reload`` came with 253."""
    said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True)
    found = re.match(r"systemd (\d+)", said.stdout)
    assert found
    return int(found[1])


def until(done: Callable[[], object], what: str, systemd: Systemd) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"systemd did not {what}:\n{systemd.log()}"
        time.sleep(0.1)


def victims(systemd: Systemd, stack: ExitStack, name: str, *words: str) -> list[Child]:
    """Two programs in systemd's namespaces."""
    settings = ["env", f"PAGEMERGE_SOCKET={SOCKET}", "PAGEMERGE_AUTOSTART=0"]
    argv = systemd.inside(*settings, sys.executable, str(VICTIMS / f"{name}.py"), *words)
    return [stack.enter_context(Child(argv)) for _ in "ab"]


def merged(systemd: Systemd) -> int:
    """Pages of the two sharers that ksmd has merged, as the kernel counts them."""
    pids = systemd.run("pgrep", "--full", "sharer.py plain guest").split()
    proc = Path(f"/proc/{systemd.pid}/root/proc")
    return sum(int((proc / pid / "ksm_merging_pages").read_text()) for pid in pids)


def test_the_service_as_it_is_shipped(systemd: Systemd, before: Knobs) -> None:
    """Both engines merge within the unit's limits; reload, deaths, and the end."""
    systemd.run("systemctl", "start", "pagemerge.socket")
    with ExitStack() as stack:
        members = victims(systemd, stack, "member")
        for member in members:  # the first connection starts the service
            member.ask("copy", pages=PAGES, seed=1)
        until(lambda: systemd.show("ActiveState") == "active", "start the service", systemd)
        until(lambda: "2 clients" in systemd.show("StatusText"), "get its status", systemd)

        sharers = victims(systemd, stack, "sharer", "plain", "guest")
        for sharer in sharers:
            sharer.ask("fill", seed=2, shared=SHARED, own=0)
        until(lambda: merged(systemd) >= 2 * SHARED - 64, "have ksmd merge", systemd)
        assert Ksm().knobs() != before

        assert systemd.show("OOMPolicy") == "continue"
        main = systemd.show("MainPID")
        Path(f"/proc/{systemd.pid}/root/run/pagemerge.toml").write_text(
            (CONFIG + RULE).replace("looks = 1", "looks = 2")
        )
        systemd.run("systemctl", "reload", "pagemerge.service")
        until(lambda: "looks = 2 (was 1)" in systemd.log(), "reload", systemd)

        # A user's scan has that user's rights, and no other's memory is looked at.
        call = '{"method":"org.pagemerge.Scan","parameters":{"all":true}}'
        told = systemd.run(sys.executable, "-c", AS_USER, str(NOBODY), API, call, "1")
        assert "it belongs to uid 0: run as that user or as root" in told
        assert "pages_sharing" in systemd.run(sys.executable, "-c", AS_USER, "0", API, STATUS, "1")

        # All at once.
        systemd.run("pkill", "--signal", "KILL", "--parent", main, "pagemerge-")
        until(lambda: systemd.log().count("was killed by SIGKILL") == 3, "restart all", systemd)
        until(lambda: "2 clients" in systemd.show("StatusText"), "take the clients", systemd)
        assert systemd.show("MainPID") == main
        assert systemd.show("NRestarts") == "0"

        systemd.run("systemctl", "kill", "--signal", "KILL", "pagemerge.service")
        until(lambda: systemd.show("NRestarts") == "1", "restart the service", systemd)
        until(lambda: "2 clients" in systemd.show("StatusText"), "take the clients", systemd)

        for member in members:
            member.ask("intern")
            assert member.ask("check") == {"wrong": 0}
        for sharer in sharers:
            assert sharer.ask("check") == {"right": True}
        systemd.run("systemctl", "stop", "pagemerge.socket", "pagemerge.service")
        assert Ksm().knobs() == before
        assert systemd.show("Result") == "success"
        assert not Path(f"/proc/{systemd.pid}/root{NOTE}").exists()
    records = journal(systemd)
    assert not any("no history is recorded" in str(it["MESSAGE"]) for it in records)
    assert {("service", "6"), ("hub", "6"), ("service", "4")} <= {
        (str(it.get("PART")), str(it["PRIORITY"])) for it in records
    }
    assert any("CODE_FILE" in it for it in records)


def test_a_service_that_hangs_is_restarted(systemd: Systemd, before: Knobs) -> None:
    systemd.run("systemctl", "start", "pagemerge.service")
    systemd.run("systemctl", "kill", "--signal", "STOP", "--kill-whom=main", "pagemerge.service")
    began = time.monotonic()
    until(lambda: systemd.show("NRestarts") == "1", "see that it hangs", systemd)
    assert time.monotonic() - began > 5, "it was not the watchdog"
    until(lambda: systemd.show("ActiveState") == "active", "start it again", systemd)
    systemd.run("systemctl", "stop", "pagemerge.socket", "pagemerge.service")
    assert Ksm().knobs() == before


def test_wrong_settings_are_no_reason_to_try_again(systemd: Systemd) -> None:
    config = Path(f"/proc/{systemd.pid}/root/run/pagemerge.toml")
    config.write_text("[hub]\nlook = 1\n")
    said = systemd.run("systemctl", "start", "pagemerge.service", check=False)
    assert "failed" in said
    assert (systemd.show("ExecMainStatus"), systemd.show("NRestarts")) == ("2", "0")
    told = "hub.look: there is no such key"
    errors = [it for it in journal(systemd) if told in str(it["MESSAGE"])]
    assert [it["PRIORITY"] for it in errors] == ["3"]


def journal(systemd: Systemd) -> list[dict[str, object]]:
    """The records of the service."""
    systemd.run("journalctl", "--sync")
    said = systemd.run("journalctl", "--unit=pagemerge.service", "--output=json")
    return [json.loads(line) for line in said.splitlines()]


def verified(name: str, *words: str) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, *words], capture_output=True, text=True, check=False)
    said = "\n".join(
        line
        for line in (done.stdout + done.stderr).splitlines()
        if "is not executable" not in line and "notify-reload" not in line
    )
    assert said == "", said


def test_the_units_have_no_mistakes() -> None:
    verified("systemd-analyze", "verify", str(DEPLOY / "pagemerge.socket"))
    verified("systemd-analyze", "verify", str(DEPLOY / "pagemerge.service"))


def test_the_page_tells_the_score() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    argv = ["systemd-analyze", "security", "--offline=true", str(DEPLOY / "pagemerge.service")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for pagemerge.service: ([\d.]+)", done.stdout)
    assert found
    told = re.search(r"rates the service ([\d.]+)", (ROOT / "docs/service.md").read_text())
    assert told
    assert float(found[1]) <= float(told[1]) + 0.3


def test_group_directory_and_device(tmp_path: Path) -> None:
    """In a root directory of its own; udev is asked about the host's real device."""
    (tmp_path / "etc").mkdir()
    for tool, name in (("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
        words = ["--create"] if name == "tmpfiles" else []
        argv = [tool, f"--root={tmp_path}", *words, str(DEPLOY / f"{name}.conf")]
        subprocess.run(argv, check=True, capture_output=True)
    assert re.search(r"^pagemerge:x:\d+:", (tmp_path / "etc/group").read_text(), re.M)
    assert (tmp_path / "run/pagemerge").stat().st_mode & 0o7777 == 0o711


def test_the_rule_gives_the_device_to_the_group() -> None:
    if not shutil.which("udevadm") or not Path("/sys/class/misc/userfaultfd").exists():
        pytest.skip("there is no udevadm, or no /dev/userfaultfd")
    script = (
        "mount -t tmpfs tmpfs /run && mkdir -p /run/udev/rules.d && "
        f"sed s/pagemerge/daemon/ {DEPLOY}/70-pagemerge.rules >/run/udev/rules.d/70-pagemerge.rules"
        " && udevadm test --action=add /sys/class/misc/userfaultfd"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert re.search(r"70-pagemerge.rules:\d+ GROUP 1$", said, re.M), said
    assert re.search(r"70-pagemerge.rules:\d+ MODE 0?660$", said, re.M), said


@pytest.fixture(autouse=True)
def no_signal_is_blocked() -> None:
    """systemd must get SIGCHLD and SIGTERM, whoever started the tests."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGTERM})
