"""A daemon in a container drives the host's ksmd: ``--host-root`` and ``--follow``.

The container is made of namespaces (mounts, network, cgroups): it has a sysfs of its own, which is
read-only, sees other cgroups by relative paths, and has the host's files below a folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child, end
from pagemerge.ksmd.borrowing import NOTE
from pagemerge.linux.ksm import ROOT, Ksm, is_mergeable
from tests.conftest import Spawn, missing
from tests.support.cgroup import _remove, limited
from tests.support.commands import PAGEMERGE, command
from tests.support.hubs import ALONE
from tests.support.services import odd_knobs

PATIENCE = 60.0
NAMESPACES = ["unshare", "--mount", "--net", "--cgroup", "--propagation", "private", "sh", "-ec"]
SCRIPT = f"""
mount --bind {ROOT} "$HOST{ROOT}"
mount -t sysfs -o ro none /sys
exec "$@"
"""

pytestmark = pytest.mark.requires("kernel", "root")


@pytest.fixture
def ksm() -> Iterator[Ksm]:
    """Kernel KSM, stopped, with knobs unlike those of any governor; put back at the end."""
    with odd_knobs():
        yield Ksm()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Where the container has the parts of the host's file system."""
    found = tmp_path / "host"
    (found / ROOT.relative_to("/")).mkdir(parents=True)
    probe = contained(found, "true")
    if probe.returncode:
        missing("namespaces", f"no namespaces can be made here: {probe.stderr.strip()}")
    return found


def contained(host: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in such a container, to its end."""
    return subprocess.run(
        [*NAMESPACES, SCRIPT, "sh", *words],
        env={**os.environ, "HOST": str(host)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


class Container:
    """A daemon that runs in one."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    def log(self) -> str:
        """All that it has said."""
        return self._log.read_text()

    def until(self, done: Callable[[], object], what: str) -> None:
        """Wait until it is so, while the daemon runs."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, f"it did not {what}: {self.log()}"
            time.sleep(0.05)


CAPABILITIES = "-all,+sys_ptrace,+dac_read_search,+sys_admin"
"""Those that deploy/kubernetes gives to the governor."""


@contextmanager
def running(
    host: Path, *words: str, cgroup: Path | None = None, least: bool = False
) -> Iterator[Container]:
    """``pagemerge daemon --engine kernel --host-root HOST``, which has begun. ``least``: with
    ``CAPABILITIES`` only."""
    log = host.parent / "log"
    argv = [*PAGEMERGE, "daemon", "--engine", "kernel", "--host-root", str(host), "--verbose"]
    if least:
        argv = ["setpriv", f"--bounding-set={CAPABILITIES}", "--inh-caps=-all", *argv]
    before = ["sh", "-c", f'echo $$ >{cgroup}/cgroup.procs; exec "$@"', "sh"] if cgroup else []
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*before, *NAMESPACES, SCRIPT, "sh", *argv, *words],
            env={**os.environ, "HOST": str(host)},
            stdout=out,
            stderr=out,
            process_group=0,
        )
    container = Container(process, log)
    try:
        container.until(lambda: "ksmd runs while that pays" in container.log(), "begin")
        yield container
    finally:
        end(process)


def twins(victim: Spawn) -> list[Child]:
    """Two processes with the same 32 MiB, which ksmd may merge."""
    found = [victim("sharer", "merge") for _ in "ab"]
    for one in found:
        one.ask("fill", seed=1, shared=8192, own=0)
    return found


def note(host: Path) -> Path:
    return host / NOTE.relative_to("/")


def test_it_drives_the_hosts_ksmd_and_is_alone(ksm: Ksm, host: Path, victim: Spawn) -> None:
    before = ksm.knobs()
    with running(host) as container:
        container.until(note(host).exists, "note the knobs")
        assert json.loads(note(host).read_bytes())["before"]["pages_to_scan"] == 123
        assert not NOTE.exists()
        assert ksm.driver() == container.process.pid
        second = command("daemon", "--engine", "kernel")
        assert second.returncode == 1, second.stderr
        assert f"process {container.process.pid} drives kernel KSM already" in second.stderr
        victims = twins(victim)
        container.until(lambda: ksm.knobs().run == 1, "have ksmd run")
        assert len(victims) == 2
        container.process.send_signal(signal.SIGTERM)
        assert container.process.wait(PATIENCE) == 0
    assert ksm.knobs() == before
    assert not note(host).exists()


def test_after_a_kill_the_note_of_the_host_counts(ksm: Ksm, host: Path, victim: Spawn) -> None:
    before = ksm.knobs()
    with running(host) as container:
        victims = twins(victim)
        container.until(lambda: ksm.knobs().run == 1, "have ksmd run")
        assert len(victims) == 2
        container.process.kill()
        container.process.wait(PATIENCE)
    assert note(host).exists() and ksm.knobs() != before
    done = contained(host, *PAGEMERGE, "daemon", "--put-back", "--host-root", str(host))
    assert (done.returncode, done.stdout) == (0, "the knobs of ksmd are back as they were\n")
    assert ksm.knobs() == before and not note(host).exists()


@pytest.mark.requires("cgroup")
def test_rules_follow_the_file_and_fit_the_hosts_cgroups(
    ksm: Ksm, host: Path, victim: Spawn, tmp_path: Path
) -> None:
    sharer, config = victim("sharer", "plain"), tmp_path / "rules.toml"
    config.write_text('[[rule]]\ncgroup = "/elsewhere/*"\nopt = "in"\n' + ALONE)
    with ExitStack() as stack:
        pod = stack.enter_context(limited(1 << 30))
        own = pod.path.with_name(f"{pod.path.name}-container")
        own.mkdir()
        stack.callback(_remove, own)
        stack.callback(sharer.close)
        pod.take(sharer.pid)
        container = stack.enter_context(
            running(host, "--config", str(config), "--follow", cgroup=own)
        )
        seen = Path(f"/proc/{container.process.pid}/cgroup").read_text()
        assert f"/{own.name}\n" in seen, "it must be in a cgroup of its own"
        new = config.with_suffix(".new")
        new.write_text(f'[[rule]]\ncgroup = "/{pod.path.name}"\nopt = "in"\n{ALONE}')
        new.rename(config)
        container.until(lambda: is_mergeable(sharer.pid), "opt it in")
        config.write_text("nonsense")
        container.until(lambda: "the old configuration stays in force" in container.log(), "tell")
        assert is_mergeable(sharer.pid)
        config.write_text("")
        container.until(lambda: not is_mergeable(sharer.pid), "let go of it")


def test_what_is_missing_is_named(host: Path, tmp_path: Path) -> None:
    def told(*words: str) -> tuple[int, str]:
        done = command("daemon", "--engine", "kernel", *words)
        return done.returncode, done.stderr

    status, said = told("--host-root", "host")
    assert status == 2 and "absolute path" in said
    status, said = told("--host-root", str(tmp_path / "none"))
    assert status == 2 and "absolute path" in said
    status, said = told("--host-root", str(host))
    assert status == 77 and f"mount the host's {ROOT} there" in said
    assert told("--follow")[0] == 2
    done = command("daemon", "--host-root", str(host))
    assert done.returncode == 2 and "--host-root means nothing with --engine user" in done.stderr


def test_without_the_hosts_processes_it_does_not_start(host: Path) -> None:
    argv = [*PAGEMERGE, "daemon", "--engine", "kernel", "--host-root", str(host)]
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *argv]
    done = subprocess.run(
        [*NAMESPACES, SCRIPT, "sh", *alone],
        env={**os.environ, "HOST": str(host)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 77 and "hostPID: true" in done.stderr, done.stderr
