"""Why memory of one process does not merge, each reason with its cure; pure functions of facts.

The bytes of a reason are what merging would free without it; for memory that no engine can merge,
and that is not looked at, they are all of it. One byte may have several reasons: a guest whose
memory is not marked also waits for ksmd. Of reasons with equal bytes, the one to cure first comes
first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pagemerge.estimate.facts import Facts
from pagemerge.estimate.scanning import SCANS, Ksmd
from pagemerge.find import eligible
from pagemerge.linux.ksm import ROOT
from pagemerge.linux.qemu import Backend, Machine
from pagemerge.linux.text import plain

OPTED_OUT = "opted out"
UNMARKED = "not marked"
CONFINED = "cannot be attached"
ENGINE = "user engine"
NO_KSM = "no kernel KSM"
STOPPED = "ksmd stopped"
SLOW = "ksmd slow"
WAITING = "not merged yet"
PINNED = "pinned"
DOMAIN = "trust domain"
UNIQUE = "no duplicates"
HUGE = "huge pages"
LOCKED = "locked"
SWAPPED = "swapped out"

HARD = (
    eligible.SHARED_MEMORY,
    eligible.HUGETLB,
    eligible.SHARED_FILE,
    eligible.DEVICE,
    eligible.NO_ACCESS,
)
"""Reasons of ``eligible`` that count: pages that the page cache shares are no loss."""

KINDS = (
    *HARD,
    *(PINNED, OPTED_OUT, CONFINED, UNMARKED, NO_KSM, STOPPED, SLOW, WAITING, ENGINE, DOMAIN),
    *(UNIQUE, HUGE, LOCKED, SWAPPED),
)
"""All kinds; of reasons with equal bytes, the first one here comes first."""

SLOW_SECONDS = 600.0
"""Seconds that ksmd may need before that is the reason."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some memory of a process does not merge."""

    kind: str
    """One of ``KINDS``, or of the caller's own."""
    bytes: int
    text: str
    """What keeps it from merging: a clause."""
    cure: str
    """What would change that, in one line; or that nothing would."""


def reasons(
    facts: Facts, ksmd: Ksmd, more: Sequence[Reason] = (), *, everyone: bool = False
) -> tuple[Reason, ...]:
    """List the reasons of one process, most bytes first; those without a byte are left out.

    ``more``: reasons that the caller knows (rules of the governor, memory seen to change).
    ``everyone``: all processes were looked at, so that a cure is not to look at more.
    """
    found = [*more, *_ineligible(facts), *_pinned(facts), *_swapped(facts)]
    found += _looked_at(facts, everyone)
    found += _of_user_engine(facts) if facts.user_engine else _of_ksmd(facts, ksmd)
    rank = {kind: at for at, kind in enumerate(KINDS)}
    kept = [it for it in found if it.bytes > 0]
    return tuple(sorted(kept, key=lambda it: (-it.bytes, rank.get(it.kind, -1))))


def _ineligible(facts: Facts) -> Iterator[Reason]:
    """Yield the reasons of memory that no engine can merge."""
    for kind in HARD:
        size = facts.ineligible_bytes.get(kind, 0)
        text, cure = eligible.REASONS[kind], "none: this memory cannot be merged"
        if kind == eligible.SHARED_MEMORY:
            text, cure = _shared(facts.machine)
        elif kind == eligible.HUGETLB:
            text, cure = _hugetlb(facts.machine)
        elif kind == eligible.SHARED_FILE:
            cure = "none needed: processes that map the file share its pages already"
        yield Reason(kind, size, text, cure)


def _shared(machine: Machine | None) -> tuple[str, str]:
    """Say why memory is shared, and the cure."""
    private = "the kernel merges private memory only"
    if machine is None:
        cure = "map it privately (MAP_PRIVATE), if no other process needs to see it"
        return f"memfd, tmpfs, System V or shared anonymous memory: {private}", cure
    backend = next((it for it in machine.backends if it.share), None)
    by = f"`{backend.option}`" if backend else "QEMU"
    default = " by default" if backend and not backend.share_given else ""
    text = f"{private}, and {by} shares it{default}"
    cure = f"{_private(backend)} (libvirt: no <access mode='shared'/>)"
    if machine.sharers:
        devices = plain(", ".join(machine.sharers), 60)
        text += f", as {devices} needs"
        cure = f"{_private(backend)}, which costs {devices}: a device of QEMU itself needs it not"
    return text, cure


def _private(backend: Backend | None) -> str:
    if backend and backend.kind == "memory-backend-shm":
        return "memory-backend-ram in its place"
    return "share=off there" if backend else "memory-backend-ram for the guest"


def _hugetlb(machine: Machine | None) -> tuple[str, str]:
    """Say where pages of hugetlbfs come from, and the cure."""
    never = "the kernel never splits pages of hugetlbfs"
    if machine is None:
        cure = "ordinary memory instead of MAP_HUGETLB, hugetlbfs or large pages of a JVM"
        return never, f"{cure}; transparent huge pages can be merged"
    backend = next((it for it in machine.backends if it.hugetlb or it.path), None)
    option = backend.option if backend else f"-mem-path {plain(machine.mem_path, 40)}"
    by = f", and `{option}` takes them" if backend or machine.mem_path else ""
    where = "hugetlb=off" if backend and backend.hugetlb else "memory-backend-ram"
    return never + by, f"{where} (libvirt: no <hugepages/>); transparent huge pages can be merged"


def _pinned(facts: Facts) -> Iterator[Reason]:
    devices = plain(", ".join(facts.machine.pinners), 60) if facts.machine else ""
    text = "hardware or the kernel writes to it at any time, so it cannot be replaced"
    text += f": {devices}" if devices else " (RDMA, io_uring, vfio)"
    cure = f"a guest without {devices}" if devices else "end what pins it, or leave it as it is"
    yield Reason(PINNED, facts.pinned_bytes, text, cure)


def _looked_at(facts: Facts, everyone: bool) -> Iterator[Reason]:
    """Yield the reasons of memory for which merging would free nothing."""
    text = "no page that was looked at has the same content"
    cure = "none: merging cannot save these pages; `scan --compress` tells what compressing would"
    if not everyone:
        cure = "none, unless other processes hold the same: look at more of them (`--all`)"
    yield Reason(UNIQUE, facts.unique_bytes, text, cure)
    who = "no other process of" if facts.alone else "only processes outside"
    text = f"{who} its trust domain ({facts.domain}) "
    text += "was looked at; others hold the same bytes" if facts.alone else "hold the same bytes"
    cure = "one user and one container for both; or `pagemerge attach --across-users` for ksmd"
    yield Reason(DOMAIN, facts.elsewhere_bytes, text, cure)


def _swapped(facts: Facts) -> Iterator[Reason]:
    text = "memory in swap is not looked at, and no engine merges it"
    cure = "merge before memory is short; what the program uses again comes back by itself"
    yield Reason(SWAPPED, facts.swapped_bytes, text, cure)


def _of_ksmd(facts: Facts, ksmd: Ksmd) -> Iterator[Reason]:
    """Yield the reasons of duplicates that kernel KSM could merge."""
    saves = facts.saves
    yield _unmarked(facts, ksmd)
    yield _ksmd(facts, ksmd)
    text = "in transparent huge pages: ksmd splits one when it finds a duplicate in it"
    cure = "none needed: let ksmd run; MADV_NOHUGEPAGE spares it the splitting"
    yield Reason(HUGE, saves.huge_bytes, text, cure)
    yield _locked(saves.locked_bytes)


def _locked(size: int) -> Reason:
    text = "locked by mlock(2): the user engine leaves it alone, ksmd merges it"
    return Reason(LOCKED, size, text, "the kernel engine; the memory stays locked")


def _unmarked(facts: Facts, ksmd: Ksmd) -> Reason:
    """Say why ksmd may not merge it, and how it may."""
    size, machine = facts.saves.unmarked_bytes, facts.machine
    attach = f"`pagemerge attach {facts.pid}`"
    run = "start it with `pagemerge run --all`"
    text = "the program has not asked for it to be merged (MADV_MERGEABLE)"
    cure = f"{attach}, or {run}"
    if machine is not None and machine.mem_merge:
        text = "memory of QEMU itself, not of the guest: QEMU does not mark it as mergeable"
        cure = attach
    elif machine is not None:
        text = "QEMU does not mark the guest's memory: `-machine mem-merge=off`"
        text += ", and no rule of the governor opts it in"
        cure = "mem-merge=on (libvirt: no <nosharepages/>), if its memory may be merged"
    elif facts.unit.endswith(".service"):
        cure = f"{attach}, or `MemoryKSM=yes` in {facts.unit} (systemd 254)"
    if not ksmd.exists:
        return Reason(UNMARKED, size, text, f"{run}: the user engine needs no kernel KSM")
    if facts.refusal:
        marked = "not marked as mergeable"
        why, colon, told = facts.refusal.rpartition(": ")
        way = told if colon else "start it with `pagemerge run --engine kernel`"
        if machine is not None and not machine.mem_merge:
            way = "mem-merge=on (libvirt: no <nosharepages/>): then QEMU marks it itself"
            marked += " (`mem-merge=off`: no rule of the governor opts it in)"
        why = why or facts.refusal
        return Reason(CONFINED, size, f"{marked}, and {plain(why)}", plain(way))
    if facts.opted_out:
        text = "it was mergeable and has been taken out (PR_SET_MEMORY_MERGE, MADV_UNMERGEABLE)"
        return Reason(OPTED_OUT, size, text, f"{attach}, unless it was taken out on purpose")
    return Reason(UNMARKED, size, text, cure)


def _ksmd(facts: Facts, ksmd: Ksmd) -> Reason:
    """Say why ksmd has not merged it yet: also memory that is not marked will have to wait."""
    size, govern = facts.saves.total_bytes, "`pagemerge daemon --engine kernel`"
    if not ksmd.exists:
        cure = "a kernel with CONFIG_KSM, or the user engine (`pagemerge run --all`)"
        return Reason(NO_KSM, size, "this Linux has no ksmd", cure)
    stands = ksmd.stands
    if stands and ksmd.driver is not None:
        text = (
            f"the governor (process {ksmd.driver}) drives it, and lets it run only while that pays"
        )
        return Reason(
            STOPPED, size, text, "its log says why; `price_bytes` in its configuration is the price"
        )
    where = " on the host" if "read-only" in ksmd.lack or "not root of" in ksmd.lack else ""
    if stands:
        write = f"echo {stands.value} > {ROOT}/{stands.knob}"
        only = stands.knob == "run"
        text = "it has to run for any of this to be merged" if only else stands.reason
        return Reason(STOPPED, size, text, f"as root{where}: {govern}, or `{write}`")
    size -= facts.saves.unmarked_bytes
    again = f"ksmd looks at {ksmd.pace}: about {_time(ksmd.seconds)} for its {SCANS} scans"
    if ksmd.seconds >= SLOW_SECONDS:
        return Reason(SLOW, size, again, f"as root{where}: {govern} runs it fast while it pays")
    cure = "wait; what stays here changes too often to be merged (`scan --watch` tells)"
    return Reason(WAITING, size, again, cure)


def _of_user_engine(facts: Facts) -> Iterator[Reason]:
    """Yield the reasons of duplicates that only the user engine could merge."""
    saves = facts.saves
    text = "the user engine merges what programs map and mark, not heap, stack or files"
    cure = "`pagemerge run --engine kernel` in its place, for all memory of the program"
    yield Reason(UNMARKED, saves.heap_bytes, text, cure)
    size = saves.total_bytes - saves.heap_bytes
    locked = min(saves.locked_bytes, size)
    yield _locked(locked)
    text = f"its hub has not merged it (yet): {facts.user_engine}"
    cure = "wait; `pagemerge status` shows what the hub has merged, and what it leaves alone"
    yield Reason(ENGINE, size - locked, text, cure)


def _time(seconds: float) -> str:
    """Write seconds in the unit that fits, with one word."""
    for unit, most in (("s", 120.0), ("minutes", 7200.0)):
        if seconds < most:
            return f"{seconds / (1 if unit == 's' else 60):,.0f} {unit}"
    return f"{seconds / 3600:,.0f} hours"
