"""Describes in words what a host can do: pure functions from facts to text."""

from __future__ import annotations

from dataclasses import dataclass

from pagemerge.cli.show.words import starting
from pagemerge.figures import number, size
from pagemerge.linux.host import Host
from pagemerge.linux.knobs import RUN, Knobs, Standstill, standstill
from pagemerge.linux.ksm import ROOT, KsmCounters
from pagemerge.linux.text import plain
from pagemerge.model import PAGE_SIZE

OK, MISSING, NOTE = "ok", "missing", "note"

UNITS_OF = {"ksmtuned": "ksmtuned", "uksmd": "uksmd"}
"""Program that drives ksmd -> the unit that starts it."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What one engine can do on this host."""

    name: str
    """user | kernel."""
    works: bool
    how: str
    """How it would merge; empty if it cannot."""
    lacks: str
    """Why it cannot merge, or cannot do more, and the cure; empty if it lacks nothing."""
    barrier: str | None = None
    """User engine: move | write-protect | park | intern (on request only)."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the report."""

    state: str
    """ok | missing (without it something cannot be done) | note."""
    about: str
    says: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class KernelKsm:
    """The state of kernel KSM."""

    knobs: Knobs
    counters: KsmCounters
    why_not: str | None
    """Why this user cannot set its knobs."""
    why_not_whole_programs: str | None
    """Why whole programs cannot be marked (PR_SET_MEMORY_MERGE)."""
    driver: int | None
    """Pid of the pagemerge that drives it now; None if there is none."""

    merged_now_bytes: int | None = None
    """Bytes that are merged now, by page tables; None if this user may not read them."""

    @property
    def stands(self) -> Standstill | None:
        """Why ksmd merges nothing; None also if a governor runs, which starts it when it pays."""
        return None if self.driver is not None else standstill(self.knobs)


def user_engine(host: Host, barrier: str, reason: str) -> Engine:
    """Describe the user engine: ``barrier`` is the one that it would get, ``reason`` says why it
    gets no better one."""
    if not host.sealed_memory:
        lack = "memfd_create(2) or its seals are refused: if a seccomp filter does so, allow them"
        return Engine("user", False, "", lack)
    if forbidden := _cannot_read(host):
        return Engine("user", False, "", forbidden)
    if barrier == "intern":
        how = "on request only (pagemerge.copy, pagemerge.intern)"
        return Engine("user", True, how, f"in the background: {reason}", barrier)
    return Engine("user", True, f"in the background, behind the barrier {barrier}", reason, barrier)


def kernel_engine(ksm: KernelKsm) -> Engine:
    """Describe the kernel engine as this user can use it."""
    if ksm.knobs.run is None:
        return Engine("kernel", False, "", str(ksm.why_not))
    start = f"{it.reason}; {starting(it, ROOT)}" if (it := ksm.stands) else ""
    if ksm.why_not and start:
        how = "merges nothing until ksmd runs"
        return Engine("kernel", False, how, f"{start} (in a container: on its host)")
    if ksm.why_not_whole_programs:
        how = "only memory that programs mark themselves (MADV_MERGEABLE)"
        return Engine("kernel", True, how, ksm.why_not_whole_programs)
    if ksm.why_not:
        how = (
            "programs that you start (`pagemerge run --engine kernel`); only root can change the "
            "settings"
        )
        return Engine("kernel", True, how, "")
    how = "any program, by ksmd"
    return Engine("kernel", True, how, start)


def answer(engines: list[Engine]) -> str:
    """Write the answer in one sentence."""
    able = [engine for engine in engines if engine.works]
    if not able:
        return "This host cannot merge."
    at_birth = any(engine.barrier == "intern" for engine in able)
    if len(able) == len(engines):
        limit = ", the user engine on request only" if at_birth else ""
        return f"This host can merge with both engines{limit}."
    limit = ", on request only" if at_birth else ""
    return f"This host can merge with the {able[0].name} engine{limit}."


def facts(host: Host, ksm: KernelKsm) -> list[Fact]:
    """List one fact for each property of the host that decides what can be done, or how well."""
    return [
        *_kernel_ksm(ksm),
        *_drivers(host, ksm),
        *_kept_out(host),
        _userfaultfd(host),
        _moving(host),
        _scan(host),
        _ptrace(host),
        _mappings(host),
        *_memory(host),
        *_container(host),
    ]


def _kernel_ksm(ksm: KernelKsm) -> list[Fact]:
    knobs = ksm.knobs
    if knobs.run is None:
        return [Fact(MISSING, "kernel KSM", "does not exist here", str(ksm.why_not))]
    state = {
        0: "is stopped, and keeps what is merged",
        1: "runs",
        2: "is stopped, all merging undone",
    }
    pace = f"{knobs.pages_to_scan} pages every {knobs.sleep_millisecs} ms"
    if knobs.advisor_mode == "scan-time":
        pace += f", set by its advisor (a scan in {knobs.advisor_target_scan_time} s)"
    runs = f"ksmd {state.get(knobs.run, f'is in state {knobs.run}')} ({pace})"
    stuck = ksm.stands if knobs.run == RUN else None
    found = [
        Fact(MISSING, "kernel KSM", stuck.reason, starting(stuck, ROOT))
        if stuck
        else Fact(OK, "kernel KSM", runs),
        Fact(NOTE, "merged by it", _merged(ksm)),
        Fact(MISSING, "its settings", "cannot be changed", ksm.why_not)
        if ksm.why_not
        else Fact(OK, "its settings", "can be changed"),
    ]
    if ksm.why_not_whole_programs:
        lack = "cannot be marked (PR_SET_MEMORY_MERGE)"
        return [*found, Fact(MISSING, "whole programs", lack, ksm.why_not_whole_programs)]
    return [*found, Fact(OK, "whole programs", "can be marked (PR_SET_MEMORY_MERGE)")]


def _merged(ksm: KernelKsm) -> str:
    """Write how much is merged: now, and by the counters of ksmd, which lag."""
    counters = ksm.counters
    told = "nothing"
    if counters.pages_shared:
        shared = number(counters.pages_shared, "stable page")
        told = f"{shared}, with {counters.pages_sharing or 0:,} mappings beyond the first of each"
    if counters.general_profit_bytes:
        told += f", a profit of {size(counters.general_profit_bytes)}"
    told = f"by ksmd's own counters, which lag: {told}"
    if ksm.merged_now_bytes is not None:
        told = f"{size(ksm.merged_now_bytes)} now (page tables); {told}"
    return f"{told}; ksmd has made {number(counters.full_scans or 0, 'full scan')}"


def _drivers(host: Host, ksm: KernelKsm) -> list[Fact]:
    """List the programs that drive ksmd: two that set the same knobs undo each other's work."""
    found = [
        Fact(
            NOTE,
            "driven by",
            f"{plain(it.name)} ({f'process {it.pid}' if it.pid else 'a unit that starts at boot'})",
            f"{_stop(it.name)} before pagemerge drives kernel KSM: both would set the same knobs",
        )
        for it in host.drivers
    ]
    if ksm.driver is not None:
        found.append(Fact(NOTE, "driven by", f"pagemerge (process {ksm.driver})"))
    if not found and ksm.knobs.run is not None:
        found.append(Fact(OK, "driven by", "no known program"))
    return found


def _stop(driver: str) -> str:
    """Say how to switch off a program that drives ksmd."""
    if driver.endswith(".service"):
        return f"`systemctl disable --now {plain(driver.removesuffix('.service'))}`"
    if driver == "virt-handler":
        return "remove spec.configuration.ksmConfiguration from the KubeVirt object"
    return f"`systemctl disable --now {UNITS_OF[driver]}`" if driver in UNITS_OF else "stop it"


def _kept_out(host: Host) -> list[Fact]:
    """Name the guests that no rule can opt in."""
    if not host.kept_out:
        return []
    names = ", ".join(sorted(plain(it, 40) or "one without a name" for it in host.kept_out)[:5])
    rest = f" and {len(host.kept_out) - 5} more" if len(host.kept_out) > 5 else ""
    says = f"{number(len(host.kept_out), 'guest')} with mem-merge=off: {names}{rest}"
    cure = "no rule opts them in; for libvirt, remove <nosharepages/> to have one merged"
    return [Fact(NOTE, "kept out", says, cure)]


def _userfaultfd(host: Host) -> Fact:
    it, about = host.userfaultfd, "userfaultfd"
    setting = host.unprivileged_userfaultfd
    sysctl = "" if setting is None else f"; vm.unprivileged_userfaultfd={setting}"
    if it.mode == "full":
        return Fact(OK, about, f"full mode, by {it.through}{sysctl}")
    says = "none" if it.mode is None else "user mode only: faults in system calls are not seen"
    cure = (
        "run as root, set vm.unprivileged_userfaultfd=1, or give this user read and write access "
        "to /dev/userfaultfd; without it: --barrier park, or merging on request"
    )
    return Fact(MISSING, about, f"{says} ({it.why}{sysctl})", cure)


def _moving(host: Host) -> Fact:
    it, about = host.userfaultfd, "UFFDIO_MOVE"
    if it.mode != "full":
        return Fact(NOTE, about, "not checked: it needs a full-mode userfaultfd")
    if not it.moves:
        cure = "Linux 6.8 or newer; pages are write-protected instead, if nothing pins memory"
        return Fact(MISSING, about, "this kernel has none", cure)
    if "CAP_SYS_PTRACE" not in host.capabilities:
        cure = "CAP_SYS_PTRACE, to be notified of forks; pages are write-protected instead"
        return Fact(MISSING, about, "not available to this user", cure)
    return Fact(OK, about, "pages can be moved aside while they are compared")


def _scan(host: Host) -> Fact:
    if host.pagemap_scan is None:
        return Fact(NOTE, "PAGEMAP_SCAN", "this process may not read its own pagemap")
    if host.pagemap_scan:
        return Fact(OK, "PAGEMAP_SCAN", "present pages are found without walking holes")
    return Fact(NOTE, "PAGEMAP_SCAN", "this kernel has none (Linux 6.7): large holes take longer")


def _cannot_read(host: Host) -> str | None:
    """Say why a hub cannot read its clients; None if it can."""
    if host.ptrace_scope == 3:
        return "kernel.yama.ptrace_scope=3 forbids reading any process until the next boot"
    if host.ptrace_scope == 2 and "CAP_SYS_PTRACE" not in host.capabilities:
        return "kernel.yama.ptrace_scope=2: set it to 1, or give the hub CAP_SYS_PTRACE"
    return None


def _ptrace(host: Host) -> Fact:
    about = "reading processes"
    if lack := _cannot_read(host):
        return Fact(MISSING, about, "is forbidden", lack)
    if "CAP_SYS_PTRACE" in host.capabilities:
        return Fact(OK, about, "those of all users (CAP_SYS_PTRACE)")
    if host.ptrace_scope == 1:
        cure = "kernel.yama.ptrace_scope=0, or root, to scan and attach others"
        return Fact(NOTE, about, "only programs that use pagemerge", cure)
    return Fact(OK, about, "those of this user; those of all users as root")


def _mappings(host: Host) -> Fact:
    limit, usual = host.max_map_count, 65530
    if limit is None:
        return Fact(NOTE, "vm.max_map_count", "cannot be read")
    says = f"{limit:,} mappings per process, of which an eighth is kept free for the program"
    if limit < usual:
        return Fact(NOTE, "vm.max_map_count", says, f"`sysctl vm.max_map_count={usual}` or more")
    return Fact(OK, "vm.max_map_count", says)


def _memory(host: Host) -> list[Fact]:
    found = []
    if host.huge_pages is not None:
        says = {
            "never": "never",
            "madvise": "where a program asks for them",
            "always": "wherever they fit",
        }.get(host.huge_pages, plain(host.huge_pages))
        says += "; mergeable memory does not use them" if host.huge_pages != "never" else ""
        found.append(Fact(NOTE, "huge pages", says))
    if host.swap_bytes is not None:
        swap = f"{size(host.swap_bytes)}; swapped pages are not looked at"
        found.append(Fact(NOTE, "swap", swap if host.swap_bytes else "none"))
    if host.numa_nodes is not None and host.numa_nodes > 1:
        says = f"{host.numa_nodes}: merging across them makes some reads slower"
        found.append(Fact(NOTE, "NUMA nodes", says, "merge_across_nodes=0 for kernel KSM"))
    if host.memory_limit_bytes is not None:
        least = size(max(host.memory_limit_bytes, PAGE_SIZE))
        says = f"{least} in this memory cgroup: the store stops at half of it"
        found.append(Fact(NOTE, "memory limit", says, "store_share in the hub's configuration"))
    return found


def _container(host: Host) -> list[Fact]:
    found = []
    if host.user_namespace:
        says = "not the host's: root here is not root on the host"
        found.append(Fact(NOTE, "user namespace", says, "run pagemerge on the host for its KSM"))
    if host.seccomp_filters:
        says = f"{number(host.seccomp_filters, 'filter')} on this process"
        cure = "if something above is refused, allow userfaultfd and prctl there"
        found.append(Fact(NOTE, "seccomp", says, cure))
    return found
