"""How soon ksmd would come by, for settings made by hand; and read from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.estimate.scanning import PAGE_SECONDS, Ksmd, ksmd
from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import Ksm


@pytest.mark.parametrize(
    ("pages", "sleep", "rate"),
    [
        (100, 20, 100 / (0.02 + 100 * PAGE_SECONDS)),
        (1, 1000, 1 / (1 + PAGE_SECONDS)),
        (5000, 0, 1 / PAGE_SECONDS),
        (0, 20, 0.0),
    ],
)
def test_pages_and_seconds(pages: int, sleep: int, rate: float) -> None:
    known = Ksmd(Knobs(run=1, pages_to_scan=pages, sleep_millisecs=sleep), marked_pages=1000)
    assert known.pages_per_second == pytest.approx(rate)
    assert known.seconds == pytest.approx(2000 / rate if rate else 0.0)


def test_a_kernel_without_ksm(tmp_path: Path) -> None:
    found = ksmd(3, Ksm(tmp_path, tmp_path))
    assert not found.exists and found.stands is not None
    assert (found.seconds, found.marked_pages, found.driver) == (0.0, 3, None)
    assert "CONFIG_KSM" in found.lack


def test_its_own_records_count_where_they_know_more(tmp_path: Path) -> None:
    files = {"run": 1, "pages_shared": 2, "pages_sharing": 3, "pages_unshared": 5}
    for name, value in {**files, "pages_volatile": 7}.items():
        (tmp_path / name).write_text(f"{value}\n")
    assert ksmd(1, Ksm(tmp_path, tmp_path)).marked_pages == 17
    assert ksmd(99, Ksm(tmp_path, tmp_path)).marked_pages == 99
    assert ksmd(1, Ksm(tmp_path, tmp_path)).stands is None
