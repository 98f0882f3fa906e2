"""Which processes are explained, on looks made by hand; and how that is shown."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pagemerge.cli.show import tables, words
from pagemerge.cli.show import why as view
from pagemerge.estimate.obstacles import Reason
from pagemerge.estimate.scanning import Ksmd
from pagemerge.estimate.why import Explained, Why, why
from pagemerge.find import eligible
from pagemerge.find.sources import ProcessSource
from pagemerge.find.survey import summed_up
from pagemerge.linux.knobs import Knobs
from tests.support import hostile
from tests.support.hostile import assert_plain, text_of
from tests.unit.estimate.test_shares import look_at

GB = 10**9
LONG = "the kernel merges private memory only, and `-object memory-backend-memfd,id=ram` shares it"
REASONS = (
    Reason("shared memory", GB, LONG, "share=off there (libvirt: no <access mode='shared'/>)"),
    Reason("no duplicates", GB // 2, "no page has the same content", "none"),
    Reason("swapped out", 1, "memory in swap is not looked at", "none"),
)
ONE = Explained(4_194_303, "qemu-system-x86", 2 * GB, "web-1", 0, REASONS)


def shown(result: Why, width: int = 80) -> str:
    out, console = io.StringIO(), tables.console()
    console.width, console.file = width, out
    view.show(console, result)
    return out.getvalue()


def explained(most: int = 9, merged: int = -1) -> Why:
    """Of four processes with 4, 3, 2 and 1 pages; ``merged`` is one that merges well."""
    made = [("a", [[pid * 10 + at for at in range(2, 6 - pid)]]) for pid in range(4)]
    found = look_at([(domain, list(mappings)) for domain, mappings in made])
    result = summed_up(found)
    rows = [replace(it, shared_pages=it.pages if it.pid == merged else 0) for it in result.rows]
    result = replace(result, rows=rows)
    return why(found, result, most, kernel=lambda _: Ksmd(Knobs(run=0)), proc=Path("/nowhere"))


def test_the_largest_are_explained_and_the_rest_is_counted() -> None:
    assert [it.pid for it in explained(2).processes] == [0, 1]
    assert (explained(2).left_out, explained(9).left_out) == (2, 0)
    assert [it.memory_bytes for it in explained(1).processes] == [4 * 4096]


def test_a_process_that_merges_well_needs_no_reason() -> None:
    assert [it.pid for it in explained(merged=0).processes] == [1, 2, 3]


def test_a_process_that_has_gone_has_an_error() -> None:
    (one, *_) = explained().processes
    assert (one.error, one.reasons) == ("it has exited", ())


def test_one_with_too_many_mappings_is_explained_without_smaps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This process: it is there, and it has more mappings than that."""
    found = look_at([("a", [[2, 2]])])
    (source,) = found.sources
    assert isinstance(source, ProcessSource)
    source.process = replace(source.process, pid=os.getpid())
    source.mapped = 10**9
    monkeypatch.setattr("pagemerge.estimate.facts.pieces", None)
    result = why(found, summed_up(found), check=lambda _: None, kernel=lambda _: Ksmd())
    assert [it.kind for it in result.processes[0].reasons] == ["not marked", "no kernel KSM"]
    source.mapped = 1
    with pytest.raises(TypeError):
        why(found, summed_up(found), check=lambda _: None)


@pytest.mark.parametrize("width", (60, 80, 100, 200))
def test_it_fits_and_says_all(width: int) -> None:
    result = Why((ONE, replace(ONE, pid=7, merged_bytes=GB)), 12)
    text = shown(result, width)
    lines = text.split("\n")
    # In a pipe, the lines that begin a process and the sentence are as long as they are.
    assert all(cell_len(it) <= width for it in lines if it.startswith("   "))
    joined = " ".join(text.split())
    assert joined.startswith("Of 4.00 GB of 2 processes, 1.00 GB is merged; the main reason is: ")
    assert "process 4194303 (qemu-system-x86, guest web-1): 2.00 GB, nothing merged" in joined
    assert "1.00 GB merged 1.00 GB shared memory: as above" in joined
    assert "Cure: share=off there (libvirt: no <access mode='shared'/>)" in joined
    assert joined.count("and 1 reason for less than 1% of its memory") == 2
    assert "... and 12 smaller processes merge little or nothing, too." in joined
    assert "swapped out: memory" not in joined


def test_nothing_to_explain() -> None:
    assert shown(Why((), 0)) == "No process that was looked at merges little or nothing.\n"
    assert "Of 2.00 GB of one process, nothing is merged." in shown(
        Why((replace(ONE, reasons=()),), 0)
    )


def test_figures() -> None:
    result = Why((ONE, replace(ONE, pid=7, guest="", error="it has exited", reasons=())), 3)
    figures = json.loads(words.as_json(view.figures(result)))
    assert list(figures["bytes_by_kind"].values()) == [GB, GB // 2, 1]
    assert figures["processes_left_out"] == 3
    first, second = figures["processes"]
    assert first["reasons"][0]["cure"] == REASONS[0].cure
    assert (first["guest"], first["error"]) == ("web-1", None)
    assert (second["guest"], second["error"]) == (None, "it has exited")


@given(*[hostile.text(b"").map(text_of)] * 4, st.sampled_from([40, 80, 200]))
def test_hostile_names_are_plain(name: str, guest: str, text: str, cure: str, width: int) -> None:
    reason = Reason(eligible.HUGETLB, GB, text, cure)
    one = replace(ONE, name=name[:15], guest=guest, reasons=(reason,))
    assert_plain(shown(Why((one, replace(one, pid=1, error=text)), 1), width))
    json.loads(words.as_json(view.figures(Why((one,), 0))))


def test_errors_of_the_look_are_left_to_the_scan() -> None:
    found = look_at([("a", [[2, 2]]), ("a", [[2]])])
    (source, _) = found.sources
    assert isinstance(source, ProcessSource)
    source.error = "it has exited"
    result = why(found, summed_up(found), kernel=lambda _: Ksmd(), proc=Path("/nowhere"))
    assert [it.pid for it in result.processes] == [1]
