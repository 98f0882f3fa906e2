"""Reasons: processes with the same one stand together, with the cure."""

from __future__ import annotations

from typing import Any

from pagemerge.report import why
from pagemerge.report.given import Given, Room
from tests.support import figures


def process(pid: int, *reasons: tuple[str, int], **more: Any) -> dict[str, Any]:
    told = [
        {"kind": kind, "bytes": bytes_, "text": f"{kind}: told", "cure": f"{kind}: cure"}
        for kind, bytes_ in reasons
    ]
    return {"pid": pid, "name": "qemu", "memory_bytes": 1000, "reasons": told, **more}


def drawn(found: dict[str, Any]) -> tuple[tuple[str, ...], why.WhyNot]:
    made = why.section(Given(found), Room())
    assert made is not None and isinstance(made.content, why.WhyNot)
    return made.words, made.content


def test_processes_with_one_reason_stand_together() -> None:
    listed = [process(at, ("huge", 10 * at), ("alone", 7)) for at in range(1, 6)]
    found = {"processes": [*listed, process(9, guest="web")], "bytes_by_kind": {"huge": 150}}
    words, content = drawn({"why": found})
    assert words == ("Of 6.00 kB of 6 processes, nothing is merged; the main reason: huge.",)
    assert [(it.kind, it.size) for it in content.reasons] == [
        ("huge", "150 bytes"),
        ("alone", "35 bytes"),
    ]
    assert content.reasons[0].holders == "qemu (5), qemu (4), qemu (3) and 2 more"
    assert content.reasons[0].cure == "huge: cure"


def test_a_process_of_which_nothing_is_known_is_told() -> None:
    _, content = drawn({"why": {"processes": [process(3, guest="web", error="it has ended")]}})
    assert [(it.text, it.holders) for it in content.reasons] == [("it has ended", "web (3)")]


def test_all_merges_is_an_answer_too() -> None:
    words, content = drawn({"why": {"processes": [], "bytes_by_kind": {}}})
    assert words == ("No process that was looked at merges little or nothing.",)
    assert not content.reasons and content.kinds is None and content.barred is None


def test_what_cannot_be_merged_is_explained() -> None:
    words, content = drawn({"totals": {"ineligible_bytes_by_reason": {"hugetlb": 5, "device": 9}}})
    assert words == ("14 bytes cannot be merged, most of it device (9 bytes).",)
    assert content.barred is not None
    assert [it.note for it in content.barred.rows] == [
        "memory of a device, which the kernel cannot move",
        "the kernel never splits pages of hugetlbfs",
    ]
    assert why.section(Given({"totals": {}}), Room()) is None


def test_reasons_are_bounded() -> None:
    reasons = [(f"kind {at}", 1000 - at) for at in range(100)]
    listed = {"processes": [process(1, *reasons)], "processes_left_out": 4}
    _, content = drawn({"why": listed})
    assert len(content.reasons) == Room().items
    assert content.more == (
        "Left out: 76 more reasons with fewer bytes and "
        "4 smaller processes of which little or nothing merges."
    )


def test_the_host_has_both() -> None:
    words, content = drawn(figures.host())
    assert len(words) == 2 and content.kinds and content.barred and content.reasons
