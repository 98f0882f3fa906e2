"""How it is shown why processes merge little: answers made by hand."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pagemerge.cli.show import tables, words
from pagemerge.cli.show import why as view
from pagemerge.estimate.obstacles import Reason
from pagemerge.estimate.why import Explained, Why
from pagemerge.find import eligible
from tests.support import hostile
from tests.support.hostile import assert_plain, text_of

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
