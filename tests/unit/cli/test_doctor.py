"""``pagemerge doctor``: what is looked up, on folders; what is said of it, of hosts by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from pagemerge.cli import doctor
from pagemerge.cli.show import findings
from pagemerge.cli.show.findings import MISSING, NOTE, OK, Fact, KernelKsm
from pagemerge.linux import host
from pagemerge.linux.host import Driver, Host, Userfaultfd
from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import KsmCounters

ALL = host._FEATURE_MOVE | host._FEATURE_WP_UNPOPULATED
ROOT = Host(
    linux="6.18",
    uid=0,
    capabilities=("CAP_SYS_PTRACE", "CAP_SYS_ADMIN"),
    user_namespace=False,
    seccomp_filters=0,
    userfaultfd=Userfaultfd("full", "syscall", ALL, ""),
    unprivileged_userfaultfd=0,
    sealed_memory=True,
    pagemap_scan=True,
    ptrace_scope=1,
    max_map_count=65530,
    huge_pages="madvise",
    swap_bytes=0,
    memory_limit_bytes=None,
    numa_nodes=1,
    drivers=(),
)
USER = replace(
    ROOT, uid=1000, capabilities=(), userfaultfd=Userfaultfd("user", "syscall", ALL, "EPERM")
)
KSM = KernelKsm(
    knobs=Knobs(run=1, pages_to_scan=100, sleep_millisecs=20, advisor_mode="none"),
    counters=KsmCounters(
        full_scans=3, pages_shared=5, pages_sharing=70, general_profit_bytes=190_000
    ),
    why_not=None,
    why_not_whole_programs=None,
    driver=None,
)
STOPPED = replace(KSM, knobs=replace(KSM.knobs, run=0))
NO_KSM = KernelKsm(Knobs(), KsmCounters(), "no KSM: CONFIG_KSM", "Linux 6.4", None)


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_a_host_says_is_read(tmp_path: Path) -> None:
    proc, sys, etc = (tmp_path / name for name in ("proc", "sys", "etc"))
    write(
        proc,
        self__status="Name:\tx\nCapEff:\t0000000000080000\nSeccomp_filters:\t2\n",
        self__uid_map="         0       1000          1\n",
        sys__vm__unprivileged_userfaultfd="1\n",
        sys__vm__max_map_count="1000\n",
        sys__kernel__yama__ptrace_scope="2\n",
        meminfo="MemTotal: 8 kB\nSwapTotal:       4 kB\n",
    )
    write(
        sys,
        kernel__mm__transparent_hugepage__enabled="[always] madvise never\n",
        devices__system__node__has_memory="0-1,4\n",
    )
    for pid, name in (("7", "ksmtuned"), ("8", "ksmd"), ("10", "momd"), ("11", "virt-handler")):
        write(proc / pid, comm=f"{name}\n")
    quiet = "/usr/bin/kvm\0-name\0db\0-machine\0mem-merge=off\0"
    write(proc / "12", comm="kvm\n", cmdline=quiet)
    write(proc / "13", comm="kvm\n", cmdline="/usr/bin/kvm\0-name\0web\0")
    write(proc / "9", comm="python3\n", cmdline="/usr/bin/python3\0/usr/sbin/momd\0-d\0")
    wants = etc / "systemd" / "system" / "multi-user.target.wants"
    wants.mkdir(parents=True)
    for name in ("ksmtuned", "mom-vdsm", "momentum"):
        (wants / f"{name}.service").symlink_to("/nowhere")
    found = host.examine(proc=proc, sys=sys, etc=etc, cgroups=tmp_path)
    assert found.capabilities == ("CAP_SYS_PTRACE",)
    assert (found.seccomp_filters, found.user_namespace) == (2, True)
    assert (found.unprivileged_userfaultfd, found.max_map_count) == (1, 1000)
    assert (found.ptrace_scope, found.huge_pages) == (2, "always")
    assert (found.swap_bytes, found.numa_nodes) == (4096, 3)
    assert found.kept_out == ("db",)
    assert found.drivers == (
        Driver("ksmtuned", 7),
        Driver("momd", 9),
        Driver("momd", 10),
        Driver("virt-handler", 11),
        Driver("ksmtuned.service", None),
        Driver("mom-vdsm.service", None),
    )


def test_what_a_host_does_not_tell_is_none(tmp_path: Path) -> None:
    found = host.examine(proc=tmp_path, sys=tmp_path, etc=tmp_path, cgroups=tmp_path)
    assert (found.capabilities, found.drivers) == ((), ())
    assert {found.seccomp_filters, found.ptrace_scope, found.max_map_count} == {None}
    assert {found.huge_pages, found.swap_bytes, found.numa_nodes} == {None}


def said(who: Host, ksm: KernelKsm, barrier: str, reason: str = "") -> tuple[str, list[bool]]:
    engines = [findings.user_engine(who, barrier, reason), findings.kernel_engine(ksm)]
    return findings.answer(engines), [engine.works for engine in engines]


@pytest.mark.parametrize(
    ("who", "ksm", "barrier", "sentence", "work"),
    [
        (ROOT, KSM, "move", "with both engines.", [True, True]),
        (ROOT, STOPPED, "move", "with both engines.", [True, True]),
        (ROOT, NO_KSM, "move", "with the user engine.", [True, False]),
        (USER, NO_KSM, "intern", "with the user engine, on request only.", [True, False]),
        (
            USER,
            replace(KSM, why_not="needs root"),
            "intern",
            "with both engines, the user engine on request only.",
            [True, True],
        ),
        (replace(ROOT, sealed_memory=False), KSM, "move", "the kernel engine.", [False, True]),
        (replace(USER, ptrace_scope=2), NO_KSM, "move", "cannot merge.", [False, False]),
        (replace(ROOT, ptrace_scope=2), NO_KSM, "move", "the user engine.", [True, False]),
        (replace(ROOT, ptrace_scope=3), NO_KSM, "move", "cannot merge.", [False, False]),
    ],
)
def test_the_answer_is_one_sentence(
    who: Host, ksm: KernelKsm, barrier: str, sentence: str, work: list[bool]
) -> None:
    answer, works = said(who, ksm, barrier)
    assert (answer.endswith(sentence), works) == (True, work), answer


def test_a_stopped_ksmd_is_no_engine_for_who_cannot_start_it() -> None:
    engine = findings.kernel_engine(replace(STOPPED, why_not="needs root"))
    assert (engine.works, "echo 1" in engine.lacks) == (False, True)
    # A governor lets it run when that pays.
    assert findings.kernel_engine(replace(STOPPED, why_not="needs root", driver=7)).works
    assert "echo 1" in findings.kernel_engine(STOPPED).lacks


@pytest.mark.parametrize(
    ("knobs", "reason", "cure"),
    [
        ({"pages_to_scan": 0}, "pages_to_scan=0", "echo 100 > /sys/kernel/mm/ksm/pages_to_scan"),
        ({"sleep_millisecs": 2**32 - 1}, "sleeps 1,193 h", "echo 20 > "),
    ],
)
def test_a_ksmd_that_runs_and_scans_nothing(knobs: dict[str, int], reason: str, cure: str) -> None:
    stuck = replace(KSM, knobs=replace(KSM.knobs, **knobs))  # type: ignore[arg-type]
    fact = facts(ROOT, stuck)["kernel KSM"]
    assert (fact.state, reason in fact.says, cure in fact.cure) == (MISSING, True, True), fact
    engine = findings.kernel_engine(stuck)
    assert (engine.works, reason in engine.lacks, cure in engine.lacks) == (True, True, True)
    assert not findings.kernel_engine(replace(stuck, why_not="needs root")).works
    assert facts(ROOT, replace(stuck, driver=7))["kernel KSM"].state == OK


def test_an_older_kernel_merges_what_is_marked() -> None:
    engine = findings.kernel_engine(replace(KSM, why_not_whole_programs="Linux 6.4"))
    assert engine.works
    assert "MADV_MERGEABLE" in engine.how
    assert engine.lacks == "Linux 6.4"


def facts(who: Host, ksm: KernelKsm) -> dict[str, Fact]:
    return {fact.about: fact for fact in findings.facts(who, ksm)}


def test_each_fact_of_a_host_that_has_all() -> None:
    found = facts(ROOT, KSM)
    assert {fact.state for fact in found.values()} == {OK, NOTE}
    assert "100 pages every 20 ms" in found["kernel KSM"].says
    counted = (
        "by ksmd's own counters, which lag: 5 stable pages, with 70 mappings beyond the first of "
        "each, a profit of 190 kB; ksmd has made 3 full scans"
    )
    assert found["merged by it"].says == counted
    known = facts(ROOT, replace(KSM, merged_now_bytes=0))["merged by it"].says
    assert known == f"0 bytes now (page tables); {counted}"
    assert "seccomp" not in found and "memory limit" not in found


def test_whatever_is_missing_comes_with_its_cure() -> None:
    """In every host, with everything that can be wrong."""
    worst = replace(
        USER,
        userfaultfd=Userfaultfd(None, None, 0, "ENOSYS"),
        ptrace_scope=3,
        max_map_count=10,
        memory_limit_bytes=10**9,
        user_namespace=True,
        seccomp_filters=1,
        drivers=(Driver("ksmtuned", 7), Driver("ksm.service", None)),
    )
    old = replace(ROOT, userfaultfd=Userfaultfd("full", "syscall", 0, ""))
    for who in (worst, USER, ROOT, old):
        for ksm in (
            NO_KSM,
            KSM,
            replace(KSM, why_not="root", why_not_whole_programs="6.4", driver=9),
        ):
            found = findings.facts(who, ksm)
            assert all(fact.cure for fact in found if fact.state == MISSING)
    found = findings.facts(worst, KSM)
    states = {fact.about: fact.state for fact in found}
    assert states["userfaultfd"] == states["reading processes"] == MISSING
    assert [fact.says for fact in found if fact.about == "driven by"] == [
        "ksmtuned (process 7)",
        "ksm.service (a unit that starts at boot)",
    ]
    assert facts(old, KSM)["UFFDIO_MOVE"].state == MISSING
    assert {"seccomp", "user namespace", "memory limit"} <= states.keys()


@pytest.mark.parametrize(
    ("driver", "cure"),
    [
        (Driver("ksmtuned", 7), "`systemctl disable --now ksmtuned`"),
        (Driver("ksmtuned.service", None), "`systemctl disable --now ksmtuned`"),
        (Driver("ksm.service", None), "`systemctl disable --now ksm`"),
        (Driver("virt-handler", 7), "ksmConfiguration from the KubeVirt object"),
        (Driver("momd", 7), "stop it before"),
    ],
)
def test_how_to_switch_off_what_drives_ksmd(driver: Driver, cure: str) -> None:
    assert cure in facts(replace(ROOT, drivers=(driver,)), KSM)["driven by"].cure


def test_guests_that_must_not_be_merged_are_named() -> None:
    assert "kept out" not in facts(ROOT, KSM)
    one = facts(replace(ROOT, kept_out=("db\x1b[2J", "")), KSM)["kept out"]
    assert one.says == "2 guests with mem-merge=off: db\\x1b[2J, one without a name"
    many = facts(replace(ROOT, kept_out=tuple("abcdefg")), KSM)["kept out"]
    assert many.says.endswith("a, b, c, d, e and 2 more")


def test_two_pagemerges_are_told_of_each_other() -> None:
    assert "process 9" in facts(ROOT, replace(KSM, driver=9))["driven by"].says


@pytest.mark.parametrize("terminal", [True, False])
def test_it_is_printed_whole(terminal: bool) -> None:
    out = io.StringIO()
    colours: Literal["standard"] | None = "standard" if terminal else None
    console = Console(file=out, force_terminal=terminal, width=80, color_system=colours)
    engines = [
        findings.user_engine(USER, "intern", "no full-mode one"),
        findings.kernel_engine(KSM),
    ]
    doctor.show(engines, findings.facts(USER, KSM), console)
    text = out.getvalue()
    assert ("\x1b[" in text) is terminal
    first = text.splitlines()[0]
    assert "This host can merge with both engines, the user engine on request only." in first
    if not terminal:
        assert all(line == line.rstrip() for line in text.splitlines())
        assert any(line.startswith("missing  userfaultfd") for line in text.splitlines())


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_command_stays_on_one_line(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    doctor.show([findings.kernel_engine(STOPPED)], findings.facts(USER, STOPPED), console)
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert all(line.count("`") % 2 == 0 for line in lines if width > 60), "the longest has 44"
    assert any("`pagemerge daemon --engine kernel`" in line for line in lines) or width == 60
