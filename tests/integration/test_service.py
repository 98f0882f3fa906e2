"""One daemon for both engines: it outlives them, reloads, and leaves ksmd as it was."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from pagemerge.demo.dialog import end
from pagemerge.errors import PagemergeError
from pagemerge.hub.reach import fetch_status
from pagemerge.ksmd.borrowing import NOTE
from pagemerge.linux import process as linux
from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import ROOT, Ksm, is_mergeable
from pagemerge.watch.ask import Service as Api
from pagemerge.watch.history import History
from tests.conftest import Spawn
from tests.support.commands import NOBODY, PAGEMERGE, command
from tests.support.hubs import FAST, PATIENCE, Hub
from tests.support.services import BOTH, Service, odd_knobs

PAGES = 1024
SHARED = 8192
KILLS = int(os.environ.get("PAGEMERGE_SERVICE_KILLS", "8"))
FULL = "client_share = 1e-9\n"
"""A share of the host's memory that is less than a page: no client may fill a slot."""

pytestmark = pytest.mark.requires("kernel", "root")


@pytest.fixture
def before() -> Iterator[Knobs]:
    with odd_knobs() as knobs:
        yield knobs


@pytest.mark.timeout(120 + 3 * KILLS)
def test_engines_killed_at_random_moments(before: Knobs, hub_socket: Path, victim: Spawn) -> None:
    """Clients ask for merges and ksmd runs all the while: data and knobs are right at the end."""
    chance = random.Random(15)
    with Service(hub_socket) as service:
        members = [victim("member", env=service.env) for _ in "ab"]
        sharers = [victim("sharer", "merge") for _ in "ab"]
        for member in members:
            member.ask("fill", pages=PAGES, seed=1)
        for sharer in sharers:
            sharer.ask("fill", seed=2, shared=SHARED, own=0)
        service.until(lambda: Ksm().knobs().run == 1, "have ksmd run")
        for number in range(KILLS):
            for member in members:
                member.ask("write", first=0, pages=64, seed=number)
                member.question("intern")
            for sharer in sharers:
                sharer.ask("rewrite", seed=number, first=0, pages=SHARED // 4)
            # A pause that ends early only if the daemon does, which must not be.
            with pytest.raises(subprocess.TimeoutExpired):
                service.process.wait(chance.uniform(0.0, 1.0))
            names = chance.sample(["hub", "governor", "watch"], 3)
            # The first may still wait for its next start, or be starting.
            service.kill(next((it for it in names if service.engine(it)), names[0]))
            for member in members:
                member.answer()
        service.until(lambda: service.engine("governor"), "have a governor")
        for member in members:
            member.ask("intern")
            assert member.ask("check") == {"wrong": 0}
        for sharer in sharers:
            assert sharer.ask("check") == {"right": True}
        service.until(
            lambda: service.log().count("was killed by SIGKILL") == KILLS, "notice each kill"
        )
        with History(service.history, read_only=True) as history:
            assert history.series()
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
    assert Ksm().knobs() == before
    assert not NOTE.exists()
    assert not hub_socket.exists()


def test_a_killed_hub_is_back_soon_and_no_connection_fails(
    before: Knobs, hub_socket: Path, victim: Spawn
) -> None:
    with Service(hub_socket) as service:
        members = [victim("member", env=service.env) for _ in "ab"]
        for member in members:
            member.ask("copy", pages=PAGES, seed=3)
        took = []
        for _ in range(3):
            killed = service.kill("hub")
            began = time.monotonic()
            while fetch_status(hub_socket, timeout=PATIENCE).hub_pid == killed:
                pass  # it was asked before the signal reached it
            took.append(time.monotonic() - began)
            service.until(lambda: service.status().pages_sharing == PAGES, "adopt what is merged")
            for member in members:
                assert member.ask("check") == {"wrong": 0}
        print(f"a killed hub answers again after {sorted(took)[1]:.2f} s")
        assert sorted(took)[1] < 5.0


def test_a_killed_daemon_takes_its_engines_along(
    before: Knobs, hub_socket: Path, victim: Spawn
) -> None:
    with Service(hub_socket) as service:
        _run_ksmd(service, victim)
        pids = [os.pidfd_open(service.engine(name)) for name in ("hub", "governor")]
        service.process.kill()
        _await_end(pids)
        assert Ksm().knobs() == before
        assert not NOTE.exists()
        # What it has left in the file system is in nobody's way.
        with Service(hub_socket, BOTH) as other:
            assert other.status().hub_pid


def test_when_all_were_killed_the_knobs_can_be_put_back(
    before: Knobs, hub_socket: Path, victim: Spawn
) -> None:
    with Service(hub_socket) as service:
        _run_ksmd(service, victim)
        pids = [service.engine(name) for name in ("hub", "governor")]
        handles = [os.pidfd_open(pid) for pid in pids]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that the daemon's death cannot end it politely
        service.process.kill()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        _await_end(handles)
    assert Ksm().knobs() != before
    done = command("daemon", "--put-back")
    assert (done.returncode, done.stdout) == (0, "the knobs of ksmd are back as they were\n")
    assert Ksm().knobs() == before
    again = command("daemon", "--put-back")
    assert (again.returncode, again.stdout) == (0, "no daemon has left any knob\n")


def test_reload_lets_go_of_nothing(before: Knobs, hub_socket: Path, victim: Spawn) -> None:
    with Service(hub_socket) as service:
        members = [victim("member", env=service.env) for _ in "ab"]
        for member in members:
            member.ask("copy", pages=PAGES, seed=4)
        plain = victim("sharer", "plain", "reload")
        late = victim("member", env=service.env)
        late.ask("fill", pages=64, seed=5)
        hub, governor = service.status(), service.engine("governor")
        assert hub.pages_sharing == PAGES

        rule = '[[rule]]\ncommand = "*sharer.py plain reload"\nopt = "in"\n'
        service.config.write_text(f"{BOTH}{FULL}{rule}")
        service.process.send_signal(signal.SIGHUP)
        service.until(lambda: _reloaded(service), "say that it has reloaded")
        states = [it.split(b"\n")[0] for it in service.told]
        states = [it for it in states if it in (b"READY=1", b"RELOADING=1")]
        assert states == [b"READY=1", b"RELOADING=1", b"READY=1"]
        assert "[hub] client_share = 1e-9 (was 0.5); 1 rules (was 0)" in service.log()
        service.until(lambda: is_mergeable(plain.pid), "use the new rule")
        late.ask("intern")
        assert late.ask("slabbed") == {"slabbed": 0}, "the store has no room for it"

        service.config.write_text("[hub]\nlook = 3\n")
        service.process.send_signal(signal.SIGHUP)
        service.until(lambda: "the old configuration stays in force" in service.log(), "refuse")
        assert is_mergeable(plain.pid)
        service.config.write_text(BOTH.replace('"user", "kernel"', '"user"'))
        service.process.send_signal(signal.SIGHUP)
        service.until(lambda: not is_mergeable(plain.pid), "drop the rule")
        assert "restart the daemon for [service] engines" in service.log()
        late.ask("intern")
        assert late.ask("slabbed") == {"slabbed": 64}

        now = service.status()
        assert (now.hub_pid, now.pages_sharing) == (hub.hub_pid, PAGES)
        assert service.engine("governor") == governor
        assert {it.pid for it in now.clients} == {it.pid for it in [*members, late]}
        for member in [*members, late]:
            assert member.ask("check") == {"wrong": 0}


def test_a_file_that_is_followed_is_read_without_a_signal(before: Knobs, hub_socket: Path) -> None:
    with Service(hub_socket, BOTH, "--follow") as service:
        service.config.write_text(f"{BOTH}{FULL}")
        service.until(lambda: "client_share = 1e-9 (was 0.5)" in service.log(), "read it")
        service.until(lambda: _reloaded(service), "say that it has reloaded")


def _reloaded(service: Service) -> bool:
    service.has_told(b"READY=1")
    return sum(it.startswith(b"READY=1") for it in service.told) >= 2


def test_a_second_instance_is_refused(before: Knobs, hub_socket: Path) -> None:
    with Service(hub_socket) as service:
        config = str(service.config)
        same = command("daemon", "--config", config, "--socket", str(hub_socket))
        assert same.returncode == 1
        assert f"a hub is running at {hub_socket} already" in same.stderr
        other = command("daemon", "--config", config, "--socket", f"{hub_socket}-2")
        assert other.returncode == 1
        assert "drives kernel KSM already: stop it first" in other.stderr
        assert not Path(f"{hub_socket}-2").exists()
        assert service.status().hub_pid == service.engine("hub")


def test_a_lock_of_another_user_keeps_no_governor_away(
    before: Knobs, hub_socket: Path, victim: Spawn
) -> None:
    """Every user can lock the folder of the knobs: no start and no restoring waits for that."""
    argv = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", "flock", str(ROOT)]
    argv += ["sh", "-c", "echo ready; read end"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as stranger:
        assert stranger.stdin and stranger.stdout
        assert stranger.stdout.readline() == b"ready\n"
        with Service(hub_socket) as service:
            _run_ksmd(service, victim)
            assert Ksm().driver() == service.engine("governor")
            service.kill("governor")
            service.until(lambda: "the knobs of ksmd are back" in service.log(), "restore them")
            service.process.terminate()
            assert service.process.wait(PATIENCE) == 0
        stranger.stdin.close()
    assert Ksm().knobs() == before


def test_an_engine_that_hangs_is_replaced(before: Knobs, hub_socket: Path) -> None:
    with Service(hub_socket, watchdog_seconds=6.0) as service:
        hung = service.kill("hub", signal.SIGSTOP)
        service.until(lambda: f"(process {hung}) has shown no sign" in service.log(), "see it")
        assert service.hub_after(hung) != hung
        service.until(lambda: service.has_told(b"WATCHDOG=1"), "tell the watchdog")
        assert any(b"STATUS=the hub serves 0 clients" in it for it in service.told)


def test_the_first_process_of_a_container_leaves_no_zombies(tmp_path: Path) -> None:
    """A part that is killed leaves its readers, which become children of the first process."""
    api, config = tmp_path / "api.sock", tmp_path / "config"
    config.write_text(f"[service]\n{FAST}")
    argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *PAGEMERGE, "daemon"]
    argv += ["--config", str(config), "--socket", str(tmp_path / "hub.sock")]
    env = {**os.environ, "PAGEMERGE_HISTORY": str(tmp_path / "history")}
    with ExitStack() as stack:
        outer = subprocess.Popen(argv, env=env)
        stack.callback(end, outer, 0.0)

        def until(done: Callable[[], object]) -> None:
            deadline = time.monotonic() + PATIENCE
            while not done():
                assert outer.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)

        watches: set[int] = set()
        for _ in range(3):
            until(lambda: set(_below(outer.pid, "pagemerge-watch")) - watches and _answers(api))
            (watch,) = (
                pid
                for pid, it in _below(outer.pid, "pagemerge-watch").items()
                if linux.name(it.parent) != it.name and it.state != "Z"
            )
            watches.add(watch)
            os.kill(watch, signal.SIGKILL)
        until(lambda: not [it for it in _below(outer.pid).values() if it.state == "Z"])
        (first,) = (pid for pid, it in _below(outer.pid).items() if it.parent == outer.pid)
        os.kill(first, signal.SIGTERM)
        assert outer.wait(PATIENCE) == 0


def _below(root: int, name: str = "") -> dict[int, linux.Stat]:
    """The descendants of a process, of all names or of one."""
    found = {}
    for pid in linux.pids():
        with suppress(PagemergeError):
            found[pid] = linux.stat(pid)
    below = {root}
    while more := {pid for pid, it in found.items() if it.parent in below} - below:
        below |= more
    return {pid: found[pid] for pid in below - {root} if not name or found[pid].name == name}


def _answers(api: Path) -> bool:
    try:
        with Api(api, timeout=PATIENCE) as service:
            return bool(service.status())
    except PagemergeError:
        return False


def test_two_daemons_in_one_folder_hear_their_own_engines(hub_socket: Path, tmp_path: Path) -> None:
    """Each drives files that stand in for the kernel's: no governor of the other one is in its
    way."""

    def started(name: str, stack: ExitStack) -> Service:
        knobs = tmp_path / name / ROOT.relative_to("/")
        knobs.mkdir(parents=True)
        for file in ROOT.iterdir():
            (knobs / file.name).write_bytes(file.read_bytes())
        place = hub_socket.with_name(name)
        config = '[service]\nengines = ["kernel"]\napi = false\n'
        host = str(tmp_path / name)
        return stack.enter_context(
            Service(place, config, "--host-root", host, watchdog_seconds=8.0)
        )

    def beats(service: Service) -> int:
        service.has_told(b"")
        return service.told.count(b"WATCHDOG=1")

    def state(service: Service) -> bytes:
        service.has_told(b"")
        return [it for it in service.told if b"STATUS=" in it][-1]

    with ExitStack() as stack:
        one = started("one", stack)
        with ExitStack() as inner:
            started("two", inner)
            assert not list(hub_socket.parent.glob("*.notify"))
        killed = one.kill("governor")
        one.until(lambda: f"(process {killed}) was killed" in one.log(), "see that")
        before = beats(one)
        one.until(lambda: beats(one) >= before + 3, "tell its state again and again")
        one.until(lambda: b"is down" not in state(one), "hear the next governor")


def test_what_means_nothing_with_both_is_refused(hub_socket: Path) -> None:
    for option in (["--until-idle"], ["--cpu", "5"]):
        done = command("daemon", "--engine", "both", "--socket", str(hub_socket), *option)
        assert done.returncode == 2
        assert f"{option[0]} means nothing with --engine both" in done.stderr


def test_a_hub_serves_at_a_socket_that_was_passed(hub_socket: Path, victim: Spawn) -> None:
    """As systemd does it; the socket stays when the hub ends, and the next hub serves there."""
    launcher = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='hub', LISTEN_PID=str(os.getpid()))\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(hub_socket))
        server.listen()
        number = str(server.fileno())
        argv = [sys.executable, "-c", launcher, number, *PAGEMERGE, "daemon", "--engine", "user"]
        for _ in range(2):
            hub = subprocess.Popen(argv, pass_fds=(server.fileno(),))
            try:
                # A program that connects before the hub is there sees the process that listens.
                assert fetch_status(hub_socket, timeout=PATIENCE).hub_pid == hub.pid
                member = victim(
                    "member",
                    env={"PAGEMERGE_SOCKET": str(hub_socket), "PAGEMERGE_AUTOSTART": "0"},
                )
                member.ask("copy", pages=64, seed=5)
                assert member.ask("summary")["hub_pid"] == hub.pid
                hub.terminate()
                assert hub.wait(PATIENCE) == 0
            finally:
                end(hub, 0.0)
            assert hub_socket.exists()


def test_a_hub_with_a_file_reloads_it(hub_socket: Path, victim: Spawn) -> None:
    with Hub(hub_socket, f"[hub]\n{FULL}") as hub:
        member = victim("member", env=hub.env)
        member.ask("fill", pages=64, seed=6)
        member.ask("intern")
        assert member.ask("slabbed") == {"slabbed": 0}
        Path(f"{hub_socket}.toml").write_text("")
        hub.process.send_signal(signal.SIGHUP)
        hub.until(lambda: "client_share = 0.5 (was 1e-9)" in hub.log(), "reload")
        member.ask("intern")
        assert member.ask("slabbed") == {"slabbed": 64}


def _run_ksmd(service: Service, victim: Spawn) -> None:
    """Give ksmd work, so that its knobs are not as they were."""
    for _ in "ab":
        victim("sharer", "merge").ask("fill", seed=1, shared=SHARED, own=0)
    service.until(lambda: Ksm().knobs().run == 1, "have ksmd run")


def _await_end(handles: list[int]) -> None:
    import select

    for handle in handles:
        assert select.select([handle], [], [], PATIENCE)[0], "an engine has outlived the daemon"
        os.close(handle)
