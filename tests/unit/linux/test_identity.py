"""Who a process is: the forms of cgroups and of QEMU's arguments, and when it is read again."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from pagemerge.linux.cgroup import cgroup_of, parse, unit_of
from pagemerge.linux.identity import TURNS, Identities
from pagemerge.linux.process import program as program_of
from pagemerge.linux.qemu import guest_of

VERSION_1 = """\
12:pids:/system.slice/web.service
9:name=systemd:/system.slice/web.service
4:memory:/system.slice/web.service
"""


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/web.service\n", "/system.slice/web.service"),
        ("0::/a/b (deleted)\n", "/a/b (deleted)"),
        ("0::/a\x0c0::/system.slice/web.service\n", "/a\x0c0::/system.slice/web.service"),
        ("0::/a\r1:name=systemd:/b\n", "/a\r1:name=systemd:/b"),
        ("0::/with:colon\n", "/with:colon"),
        ("0::/\n", "/"),
        (VERSION_1, "/system.slice/web.service"),
        (VERSION_1 + "0::/\n", "/system.slice/web.service"),
        ("9:name=systemd:/\n4:memory:/docker/0123\n2:cpu,cpuacct:/\n", "/docker/0123"),
        ("2:cpu,cpuacct:/lxc/one\n0::/\n", "/lxc/one"),
        ("", "/"),
    ],
)
def test_both_versions_of_cgroups(text: str, path: str) -> None:
    assert cgroup_of(parse(text.encode())) == path


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/system.slice/web.service", "web.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        (
            r"/machine.slice/machine-qemu\x2d3\x2dweb.scope/libvirt/emulator",
            r"machine-qemu\x2d3\x2dweb.scope",
        ),
        ("/init.scope", "init.scope"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/user.slice/user-1000.slice/session-2.scope", "session-2.scope"),
        # Not the unit that the user made up below what is theirs.
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
            "user@1000.service",
        ),
        ("/system.slice/docker-0123.scope/system.slice/web.service", "docker-0123.scope"),
        ("/docker/0123/web.service", ""),
        # Names that systemd does not give.
        ("/system.slice/web.service (deleted)", ""),
        ("/system.slice/web\x0c.service", ""),
        ("/x\x0c/system.slice/web.service", ""),
        ("/system.slice/\udcff.service", ""),
        ("/user.slice/web.slice/web.service", ""),
        ("/system.slice/.service", ""),
        ("/../../system.slice/web.service", ""),
        ("/system.slice", ""),
        ("/", ""),
    ],
)
def test_the_unit_is_the_first_that_is_no_slice(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit


@pytest.mark.parametrize(
    ("command", "guest"),
    [
        # As libvirt starts it, but for the length.
        (
            "/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -S -object "
            '{"qom-type":"secret","id":"masterKey0","format":"raw"} -machine pc-q35-7.2',
            "web",
        ),
        ("/usr/libexec/qemu-kvm -name guest=web,process=qemu:web", "web"),
        ("/usr/bin/kvm -id 100 -name web,debug-threads=on -no-shutdown", "web"),  # Proxmox VE
        ("qemu-system-x86_64 -m 512 -name web", "web"),
        ("qemu-system-x86_64 --name debug-threads=on,guest=web", "web"),
        ("qemu-system-x86_64 -name a,,b,process=x", "a,b"),
        ("qemu-system-x86_64 -name guest=a=b", "a=b"),
        ("qemu-system-x86_64 -name one -name guest=two", "two"),
        ("qemu-system-x86_64 -name debug-threads=on", ""),
        ("qemu-system-x86_64 -m 512 -name", ""),
        ("qemu-system-x86_64 -m 512", ""),
        ("java -name web", ""),
        ("", ""),
    ],
)
def test_the_guest_of_qemu(command: str, guest: str) -> None:
    assert guest_of(command.split(" ")) == guest


class Folder:
    """A /proc with processes as one wants them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "uptime").write_text("1000.00 2000.00\n")

    def add(
        self,
        pid: int,
        name: str = "some (one)",
        start: int = 500,
        stack: int = 7,
        flags: int = 0x400000,
        state: str = "S",
        command: str = "some\0one\0",
        cgroup: str = "/system.slice/web.service",
    ) -> None:
        folder = self.path / str(pid)
        folder.mkdir(exist_ok=True)
        fields = ["0"] * 48
        fields[0], fields[6], fields[19], fields[25] = state, str(flags), str(start), str(stack)
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (folder / "cmdline").write_text(command)
        (folder / "cgroup").write_text(f"0::{cgroup}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["/usr/bin/qemu-system-x86_64", "-m", "4096"], "qemu-system-x86_64"),
        (["/usr/bin/pagemerge", "run"], "pagemerge"),
        (["/usr/bin/python3", "/usr/bin/pagemerge", "run", "--", "nginx"], "pagemerge"),
        (["python3.12", "-m", "pagemerge", "daemon"], "pagemerge"),
        (["python3", "-X", "dev", "-W", "error", "-Im", "pagemerge"], "pagemerge"),
        (["python3", "-mpagemerge.demo.worker"], "pagemerge.demo.worker"),
        (["/usr/libexec/platform-python", "-Es", "/usr/sbin/momd", "-d"], "momd"),
        (["python3", "-c", "pass", "pagemerge"], "python3"),
        (["python3", "-m"], ""),
        (["python3"], "python3"),
        (["nginx", "pagemerge"], "nginx"),
        ([""], ""),
    ],
)
def test_what_a_command_line_runs(words: list[str], program: str) -> None:
    assert program_of(words) == program


def test_an_identity(proc: Folder) -> None:
    proc.add(7)
    proc.add(8, flags=0x0020_8040)
    proc.add(9, state="Z")
    (proc.path / "11").mkdir()  # It vanished after the listing.
    own = pwd.getpwuid(os.geteuid()).pw_name
    (found,) = Identities(proc.path).present()
    assert (found.pid, found.start_time, found.uid, found.user) == (7, 500, os.geteuid(), own)
    assert (found.name, found.command) == ("some (one)", "some one")
    assert (found.unit, found.guest) == ("web.service", "")


def test_only_what_is_new_or_changed_is_read(proc: Folder) -> None:
    pids = [*range(10 * TURNS + 1, 10 * TURNS + 5)]
    for pid in pids:
        proc.add(pid)
    identities = Identities(proc.path)
    identities._looks = 20  # So that it is nobody's turn for a while.
    first = identities.present()
    assert identities.read == 4
    assert identities.present() == first
    assert identities.read == 0
    proc.add(pids[0], start=501)
    proc.add(pids[1], stack=8, command="other\0")
    proc.add(pids[2], name="renamed")
    second = identities.present()
    assert identities.read == 3
    assert [who.start_time for who in second] == [501, 500, 500, 500]
    assert second[1].command == "other"
    assert second[2].name == "renamed"
    assert second[3] is first[3]


def test_a_move_to_another_cgroup_is_seen_in_turn_and_at_once_in_the_young(proc: Folder) -> None:
    proc.add(20)
    proc.add(21, start=99_900)
    identities = Identities(proc.path)
    identities.present()
    for pid, start in ((20, 500), (21, 99_900)):
        proc.add(pid, start=start, cgroup="/system.slice/other.service")
    units = [[who.unit for who in identities.present()] for _ in range(TURNS)]
    assert units[0] == ["web.service", "other.service"]
    assert units[-1] == ["other.service", "other.service"]
