"""Facts of a process made by hand, and the reasons that they give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from pagemerge.estimate import obstacles
from pagemerge.estimate.facts import Facts, Saves
from pagemerge.estimate.obstacles import KINDS, Reason, reasons
from pagemerge.estimate.scanning import Ksmd
from pagemerge.find import eligible
from pagemerge.linux.knobs import Knobs
from pagemerge.linux.qemu import machine_of
from tests.support import hostile
from tests.support.hostile import text_of

MIB = 1 << 20
STOPPED = Ksmd(Knobs(run=0, pages_to_scan=100, sleep_millisecs=20))
RUNS = Ksmd(Knobs(run=1, pages_to_scan=100, sleep_millisecs=20), marked_pages=10_000)
MARKED = Saves(total_bytes=8 * MIB)
UNMARKED = Saves(total_bytes=8 * MIB, unmarked_bytes=8 * MIB)


def first(ksmd: Ksmd = STOPPED, **known: Any) -> Reason:
    return reasons(Facts(7, **known), ksmd)[0]


def guest(*words: str) -> Any:
    return machine_of(["qemu-system-x86_64", *words])


def test_most_bytes_first_and_ties_by_what_to_cure_first() -> None:
    saves = Saves(8 * MIB, unmarked_bytes=8 * MIB, huge_bytes=8 * MIB, locked_bytes=8 * MIB)
    found = reasons(Facts(7, saves=saves, unique_bytes=9 * MIB, swapped_bytes=1), STOPPED)
    assert [it.kind for it in found] == [
        *("no duplicates", "not marked", "ksmd stopped", "huge pages", "locked", "swapped out")
    ]
    assert reasons(Facts(7), STOPPED) == ()


def test_reasons_of_the_caller_are_listed_by_bytes_too() -> None:
    mine = Reason("rule", 8 * MIB, "a rule keeps it out", "change the rule")
    facts = Facts(7, saves=UNMARKED)
    assert reasons(facts, STOPPED, [mine])[0] == mine
    assert reasons(facts, STOPPED, [replace(mine, bytes=1)])[-1].kind == "rule"


@pytest.mark.parametrize(
    ("words", "text", "cure"),
    [
        ((), "QEMU shares it", "memory-backend-ram for the guest"),
        (
            ("-object", "memory-backend-memfd,id=ram"),
            "`-object memory-backend-memfd,id=ram` shares it by default",
            "share=off there (libvirt: no <access mode='shared'/>)",
        ),
        (
            ("-object", "memory-backend-file,id=r,share=on,mem-path=/x"),
            "`-object memory-backend-file,id=r,mem-path=/x,share=on` shares it",
            "share=off there",
        ),
        (("-object", "memory-backend-shm,id=r"), "by default", "memory-backend-ram in its place"),
        (
            ("-object", "memory-backend-memfd,id=r", "-device", "vhost-user-fs-pci,tag=t"),
            "as vhost-user-fs-pci needs",
            "share=off there, which costs vhost-user-fs-pci",
        ),
    ],
)
def test_shared_memory_of_a_guest(words: tuple[str, ...], text: str, cure: str) -> None:
    found = first(ineligible_bytes={eligible.SHARED_MEMORY: MIB}, machine=guest(*words))
    assert found.kind == eligible.SHARED_MEMORY
    assert text in found.text and cure in found.cure


@pytest.mark.parametrize(
    ("words", "text", "cure"),
    [
        (("-mem-path", "/dev/hugepages"), "`-mem-path /dev/hugepages`", "memory-backend-ram"),
        (
            ("-object", "memory-backend-memfd,id=r,hugetlb=on"),
            "`-object memory-backend-memfd,id=r,hugetlb=on`",
            "hugetlb=off",
        ),
    ],
)
def test_huge_pages_of_a_guest(words: tuple[str, ...], text: str, cure: str) -> None:
    found = first(ineligible_bytes={eligible.HUGETLB: MIB}, machine=guest(*words))
    assert text in found.text and found.cure.startswith(cure)


def test_other_programs_get_cures_of_their_own() -> None:
    assert "MAP_PRIVATE" in first(ineligible_bytes={eligible.SHARED_MEMORY: 1}).cure
    assert "MAP_HUGETLB" in first(ineligible_bytes={eligible.HUGETLB: 1}).cure
    pages = {eligible.FILE_PAGES: MIB, eligible.SPECIAL: MIB}
    assert reasons(Facts(7, ineligible_bytes=pages), STOPPED) == (), "shared already: no loss"


@pytest.mark.parametrize(
    ("known", "kind", "text", "cure"),
    [
        (
            {},
            "not marked",
            "the program",
            "`pagemerge attach 7`, or start it with `pagemerge run --all`",
        ),
        ({"machine": guest()}, "not marked", "QEMU itself", "`pagemerge attach 7`"),
        (
            {"machine": guest("-machine", "mem-merge=off")},
            *("not marked", "`-machine mem-merge=off`", "mem-merge=on (libvirt: no <nosharepages"),
        ),
        ({"unit": "web.service"}, "not marked", "the program", "`MemoryKSM=yes` in web.service"),
        ({"unit": "web.scope"}, "not marked", "the program", "or start it with"),
        ({"opted_out": True}, "opted out", "PR_SET_MEMORY_MERGE", "on purpose"),
        (
            {"refusal": "process 7 is confined by seccomp(2): start it with `x`", "unit": "a"},
            *("cannot be attached", "process 7 is confined by seccomp(2)", "start it with `x`"),
        ),
        (
            {"refusal": "no", "machine": guest("-M", "mem-merge=off"), "opted_out": True},
            *("cannot be attached", "no rule of the governor opts it in), and no", "QEMU marks"),
        ),
        ({"refusal": "no"}, "cannot be attached", "and no", "`pagemerge run --engine kernel`"),
    ],
)
def test_not_marked(known: dict[str, Any], kind: str, text: str, cure: str) -> None:
    found = first(saves=UNMARKED, **known)
    assert (found.kind, found.bytes) == (kind, 8 * MIB)
    assert text in found.text and cure in found.cure


@pytest.mark.parametrize(
    ("ksmd", "kind", "text", "cure"),
    [
        (Ksmd(), "no kernel KSM", "no ksmd", "the user engine"),
        (STOPPED, "ksmd stopped", "has to run", "`echo 1 > /sys/kernel/mm/ksm/run`"),
        (
            Ksmd(Knobs(run=1, pages_to_scan=0)),
            *("ksmd stopped", "looks at no page", "`echo 100 > /sys/kernel/mm/ksm/pages_to_scan`"),
        ),
        (replace(STOPPED, driver=9), "ksmd stopped", "the governor (process 9)", "its log"),
        (
            replace(STOPPED, lack="/sys is read-only here, as in a container"),
            *("ksmd stopped", "has to run", "as root on the host"),
        ),
        (RUNS, "not merged yet", "100 pages every 20 ms: about 4 s for its 2 scans", "wait"),
        (
            replace(RUNS, marked_pages=10_000_000),
            *("ksmd slow", "about 68 minutes for its 2 scans", "daemon --engine kernel"),
        ),
        (replace(RUNS, marked_pages=10**8), "ksmd slow", "about 11 hours", "fast while it pays"),
        (
            replace(RUNS, knobs=replace(RUNS.knobs, advisor_mode="scan-time")),
            *("not merged yet", "as its advisor sets", "wait"),
        ),
    ],
)
def test_ksmd(ksmd: Ksmd, kind: str, text: str, cure: str) -> None:
    found = first(ksmd, saves=MARKED)
    assert (found.kind, found.bytes) == (kind, 8 * MIB)
    assert text in found.text and cure in found.cure


def test_memory_that_is_not_marked_does_not_wait_for_a_ksmd_that_runs() -> None:
    assert [it.kind for it in reasons(Facts(7, saves=UNMARKED), RUNS)] == ["not marked"]
    lone = reasons(Facts(7, saves=UNMARKED), Ksmd())
    assert [it.kind for it in lone] == ["not marked", "no kernel KSM"]
    assert "attach" not in lone[0].cure, "there is nothing that would merge it"


def test_pinned_by_devices() -> None:
    found = first(pinned_bytes=MIB, machine=guest("-device", "vfio-pci,host=1"))
    assert (found.kind, found.text[-8:]) == ("pinned", "vfio-pci")
    assert "io_uring" in first(pinned_bytes=MIB).text


def test_other_domains() -> None:
    found = first(elsewhere_bytes=MIB, alone=True, domain="uid 5")
    assert found.kind == "trust domain" and "(uid 5) was looked at" in found.text
    assert "only processes outside" in first(elsewhere_bytes=MIB, domain="uid 5").text


def test_the_cure_for_unique_pages_depends_on_who_was_looked_at() -> None:
    facts = Facts(7, unique_bytes=MIB)
    assert "--all" in reasons(facts, STOPPED)[0].cure
    assert "--all" not in reasons(facts, STOPPED, everyone=True)[0].cure


def test_the_user_engine() -> None:
    saves = Saves(8 * MIB, unmarked_bytes=8 * MIB, huge_bytes=8 * MIB, heap_bytes=3 * MIB)
    facts = Facts(7, saves=saves, user_engine="it was started with `pagemerge run`")
    found = reasons(facts, STOPPED)
    assert [(it.kind, it.bytes) for it in found] == [
        ("user engine", 5 * MIB),
        ("not marked", 3 * MIB),
    ]
    facts = replace(facts, saves=replace(facts.saves, locked_bytes=MIB), locked_bytes=MIB)
    assert [(it.kind, it.bytes) for it in reasons(facts, STOPPED)] == [
        ("user engine", 4 * MIB),
        ("not marked", 3 * MIB),
        ("locked", MIB),
    ]


def test_all_kinds_are_ranked() -> None:
    names = {it for name, it in vars(obstacles).items() if name.isupper() and isinstance(it, str)}
    assert names <= set(KINDS) and len(set(KINDS)) == len(KINDS)


@given(*[hostile.text(b"\0").map(text_of)] * 2)
def test_hostile_words_are_plain(word: str, refusal: str) -> None:
    devices = ("-device", f"vfio{word}", "-device", f"vhost-user{word}", "-mem-path", word)
    told = machine_of(["qemu", *devices, "-object", f"memory-backend-memfd,id={word}"])
    sizes = {eligible.SHARED_MEMORY: 1, eligible.HUGETLB: 1}
    facts = Facts(
        *(7, "uid 5"),
        saves=UNMARKED,
        ineligible_bytes=sizes,
        pinned_bytes=1,
        machine=told,
        refusal=refusal,
    )
    found = reasons(facts, STOPPED)
    assert {it.kind for it in found} >= {"cannot be attached", "pinned", "hugetlb"}
    for reason in found:
        hostile.assert_plain(reason.text + reason.cure)
