"""tests/selftests: what programs report, and where two reports differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.errors import Unsupported
from tests.selftests import compare, fetch, report, stated
from tests.selftests.compare import MISSING, STATUS, Difference, Report
from tests.selftests.trial import Result, Row

TAP = b"""TAP version 13
1..4
# [RUN] a thing
ok 1 No leak from parent into child
not ok 2 vmsplice at 0x7f1200000000
ok 3 # SKIP THP not available
ok 4 mremap # XFAIL known
# Totals: pass:1 fail:1 xfail:1 xpass:0 skip:1 error:0
"""


def test_tap_is_read_by_number_with_its_directives() -> None:
    assert compare.parse(TAP) == {"1": "ok", "2": "not ok", "3": "skip", "4": "xfail"}


def test_titles_leave_out_what_changes_from_run_to_run() -> None:
    titles = compare.titles(TAP)
    assert titles["2"] == "vmsplice at …"
    assert titles["3"] == "THP not available"


def test_a_number_that_comes_again_is_another_check() -> None:
    assert compare.parse(b"ok 1 a\nnot ok 1 a\n") == {"1": "ok", "1 (2)": "not ok"}


@pytest.mark.parametrize(
    ("line", "check", "result"),
    [
        (b"Testing UFFDIO_MOVE on anon... done", "UFFDIO_MOVE on anon", "ok"),
        (b"Testing wp on shmem... skipped [reason: no]", "wp on shmem", "skip"),
        (b"Testing wp on anon... failed [reason: x]", "wp on anon", "not ok"),
        (b"test_move (test.test_mmap.Tests.test_move) ... ok", None, "ok"),
        (b"test_move (test.test_mmap.Tests.test_move) ... FAIL", None, "not ok"),
        (b"test_big (test.test_mmap.Tests.test_big) ... skipped 'large'", None, "skip"),
    ],
)
def test_what_does_not_speak_tap_is_read_by_name(
    line: bytes, check: str | None, result: str
) -> None:
    name = check or line.split(b" ... ")[0].decode()
    assert compare.parse(line) == {name: result}


@given(st.binary(max_size=300))
def test_no_output_is_too_strange_to_read(output: bytes) -> None:
    assert all(name.isprintable() for name in compare.parse(output))


def test_the_same_report_has_no_difference() -> None:
    said = Report("exit 0", compare.parse(TAP))
    assert compare.differences(said, said) == []


def test_each_other_result_is_a_difference() -> None:
    bare = Report("exit 0", {"1": "ok", "2": "ok", "3": "skip"})
    here = Report("exit 1", {"1": "ok", "2": "not ok", "4": "ok"})
    assert compare.differences(bare, here) == [
        Difference(STATUS, "exit 0", "exit 1"),
        Difference("3", "skip", MISSING),
        Difference("2", "ok", "not ok"),
        Difference("4", MISSING, "ok"),
    ]


def test_a_program_that_ends_early_is_one_difference_beside_its_end() -> None:
    bare = Report("exit 0", {str(number): "ok" for number in range(1, 100)})
    here = Report("SIGSEGV", {"1": "ok"})
    assert compare.differences(bare, here) == [
        Difference(STATUS, "exit 0", "SIGSEGV"),
        Difference("2 and 97 more", "came", MISSING),
    ]


def test_only_what_comes_without_an_agent_too_is_not_ours() -> None:
    racy, control = (Difference(name, "ok", "not ok") for name in "ab")
    assert compare.ours([racy, control], [control]) == ([racy], [control])
    assert compare.ours([control], [Difference("b", "ok", "skip")]) == ([control], [])


def test_a_stated_difference_fits_as_a_whole() -> None:
    skipped = Difference("7", "ok", "skip")
    told = "Did not get a THP populated"
    assert stated.reason("cow", "every", told, skipped)
    assert not stated.reason("cow", "active", told, skipped)
    assert not stated.reason("cow", "every", "gup_test not available", skipped)
    assert not stated.reason("cow", "every", told, Difference("7", "ok", "not ok"))
    assert not stated.reason("cows", "every", told, skipped)


def test_the_newest_kernel_is_the_highest_number() -> None:
    offered = ["linux-source-6.1", "linux-source-6.12", "linux-source-6.9", "linux-source"]
    assert fetch.newest_kernel(offered) == "linux-source-6.12"
    with pytest.raises(Unsupported, match="apt-get update"):
        fetch.newest_kernel(["linux-source"])


def _result(reason: str) -> Result:
    row = Row("cow", "every", "7", "a|b", "ok", "skip", reason, "")
    return Result(programs={"cow": 9, "mkdirty": 6}, ways=["every"], rows=[row])


def test_a_difference_counts_until_it_is_explained() -> None:
    assert _result("").unexplained
    assert not _result("a reason").unexplained
    assert report.verdict(_result("")).startswith("1 unexplained difference,")


def test_the_section_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Reliability\n\ntold\n")
    report.put(page, report.section(_result("first"), "make selftests"))
    page.write_text(page.read_text() + "\n## Another\n\nkept\n")
    report.put(page, report.section(_result("second"), "make selftests"))
    text = page.read_text()
    assert text.startswith("# Reliability\n\ntold\n")
    assert text.endswith("## Another\n\nkept\n")
    assert "second" in text
    assert "first |" not in text
    assert "a\\|b" in text
