"""Forecasts by hand: what one more costs, and how many fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pagemerge.errors import NoSuchProcess
from pagemerge.estimate import cost as costs
from pagemerge.estimate import fit as module
from pagemerge.estimate.fit import Fit, fit, like
from pagemerge.find.look import Look, look
from pagemerge.find.process import Process
from pagemerge.find.sources import Piece, ProcessSource, Source
from pagemerge.linux.charges import Charges
from pagemerge.linux.ksm import Ksm
from pagemerge.linux.room import Limit, Room
from pagemerge.model import PAGE_SIZE

MB = 1_000_000
MINE = os.getpid()


class Image:
    """A memory image with pages of the given digests."""

    def __init__(
        self, digests: list[int], frames: list[int] | None = None, error: str = ""
    ) -> None:
        self.name, self.domain, self.error, self.total = "image", "", error, len(digests)
        self.markable = np.ones(self.total, np.bool_)
        self._piece = Piece(
            np.array(digests, np.uint64),
            np.array(frames or [0] * self.total, np.uint64),
            self.total * PAGE_SIZE,
        )

    def read(self, seed: int, threads: int) -> Iterator[Piece]:
        yield self._piece

    def contents(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
        raise AssertionError("nobody asks for these")


class Mine(ProcessSource):
    """The same, as a process; it has the pid of this one."""

    def __init__(self, digests: list[int], frames: list[int] | None = None) -> None:
        super().__init__(Process(MINE, "mine", 0), domain="")
        self.image = Image(digests, frames)

    @property
    def total(self) -> int:
        return self.image.total

    @property
    def markable(self) -> Any:
        marked = self.image.markable.copy()
        marked[-1:] = False
        return marked

    def read(self, seed: int, threads: int) -> Iterator[Piece]:
        return self.image.read(seed, threads)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the kernel would say; tests change it."""
    facts: dict[str, Any] = {"charges": Charges(), "room": Room(1000 * MB), "zeros": 0}
    monkeypatch.setattr(costs, "charges_of", lambda _pid: facts["charges"])
    monkeypatch.setattr(costs, "zero_pages_of", lambda pids: len(pids) * facts["zeros"])
    monkeypatch.setattr(module, "room", lambda _pid: facts["room"])
    return facts


def look_at(*sources: Source) -> Look:
    return look(sources)


def pages(own: int, common: int, zero: int, seed: int) -> list[int]:
    """Digests: an own content for each page, common ones, zeros."""
    return [*range(seed * 10**6, seed * 10**6 + own), *range(100, 100 + common), *[1] * zero]


def test_parts_of_the_cost(given: dict[str, Any]) -> None:
    given["charges"] = Charges(table_bytes=1000, stack_bytes=200, shared_memory_bytes=30)
    found = look_at(*(Mine(pages(1000, 2560, 500, seed)) for seed in (1, 2, 3)))
    cost = fit(found, [0, 1]).cost
    assert cost.other_bytes == 1230
    assert cost.private_bytes == 4060 * PAGE_SIZE
    assert cost.apart_bytes == cost.unshared_bytes == 4060 * PAGE_SIZE + 1230
    assert cost.record_bytes == 64 * 3560
    # ksmd keeps one frame for each 256 mappings (max_page_sharing).
    sharing = (Ksm().knobs().max_page_sharing or 256) / 2560
    assert cost.kernel_bytes == pytest.approx((1000 + 1 / sharing) * PAGE_SIZE + 64 * 3560 + 1230)
    # The last page cannot be marked: it is of zeros, and stays.
    assert cost.user_bytes == 1001 * PAGE_SIZE + 287 + 1230


def test_pages_of_forks_and_of_ksmd(given: dict[str, Any]) -> None:
    frames = [*range(1 << 40, (1 << 40) + 100)]
    found = look_at(*(Mine(pages(0, 100, 0, 1), frames) for _ in "ab"))
    forked = fit(found, [0])
    assert (forked.cost.apart_bytes, forked.cost.unshared_bytes) == (0, 100 * PAGE_SIZE)
    # The last page is shared, too, though the user engine cannot be given it.
    assert forked.cost.user_bytes == 287
    assert forked.now.saved_bytes == 100 * PAGE_SIZE
    given["charges"] = Charges(ksm_pages=100, ksm_zero_pages=7)
    given["zeros"] = 7
    merged = fit(found, [0])
    assert merged.cost.apart_bytes == merged.cost.unshared_bytes == 107 * PAGE_SIZE
    assert merged.now.saved_bytes == (100 + 2 * 7) * PAGE_SIZE
    assert merged.now.kernel_bytes == 0


def test_how_many_fit(given: dict[str, Any]) -> None:
    found = look_at(*(Mine(pages(1000, 9000, 0, seed)) for seed in (1, 2)))
    given["room"] = Room(1000 * MB)
    result = fit(found, [0, 1], reserve_bytes=100 * MB, unsharing_bytes_per_second=2.0 * MB)
    each, cost, saves = 10_000 * PAGE_SIZE, result.cost.kernel_bytes, result.now.kernel_bytes
    assert saves == 9000 * PAGE_SIZE - 64 * 20_000
    assert result.apart.number == result.safe.number == 900 * MB // each
    assert result.apart.missing_bytes == result.safe.missing_bytes == 0
    plan = result.kernel
    # The last one is there before it is merged.
    assert (plan.number - 1) * cost + each <= 900 * MB + saves < plan.number * cost + each
    assert plan.left_bytes == int(1000 * MB + saves - plan.number * cost)
    assert plan.missing_bytes == plan.number * each - 1000 * MB
    assert plan.full_after_seconds == pytest.approx(
        plan.left_bytes / (2 * MB * (plan.number + 2)), 1e-6
    )
    assert result.apart.full_after_seconds is None


def test_what_is_merged_already_can_unshare(given: dict[str, Any]) -> None:
    given["charges"] = Charges(ksm_zero_pages=100_000)
    given["zeros"] = 100_000
    found = look_at(Mine(pages(1000, 0, 0, 1)))
    result = fit(found, [0])
    saved = 100_000 * PAGE_SIZE
    assert result.now.saved_bytes == saved
    assert result.safe.number == (1000 * MB - saved) // (101_000 * PAGE_SIZE)
    assert result.apart.number == 1000 * MB // (101_000 * PAGE_SIZE)
    assert result.apart.missing_bytes > 0


def test_nothing_fits(given: dict[str, Any]) -> None:
    found = look_at(Mine(pages(100, 0, 0, 1)))
    result = fit(found, [0], reserve_bytes=2000 * MB)
    plans = (result.apart, result.kernel, result.user, result.safe)
    assert [plan.number for plan in plans] == [0, 0, 0, 0]


def test_only_processes_inside_the_limit_save(given: dict[str, Any]) -> None:
    given["room"] = Room(1000 * MB, Limit(b"no/such/group", "memory.max", 10 * MB, 0, 0))
    result = fit(look_at(Mine(pages(0, 9000, 0, 1)), Mine(pages(0, 9000, 0, 1))), [0])
    assert (result.now.kernel_bytes, result.now.saved_bytes) == (0, 0)
    assert result.apart.left_bytes == 10 * MB


def test_images_take_no_memory_and_can_be_models(given: dict[str, Any]) -> None:
    found = look_at(Image(pages(50, 100, 0, 1)), Image(pages(70, 100, 0, 2)))
    result: Fit = fit(found, [0, 1])
    assert (result.name, result.like, result.now.kernel_bytes) == ("image", 2, 0)
    assert result.cost.own_bytes == 60 * PAGE_SIZE
    assert result.most_kernel_bytes > result.cost.kernel_bytes


def test_models_that_could_not_be_looked_at_do_not_count(given: dict[str, Any]) -> None:
    found = look_at(Image([5], error="it has exited"), Image([6]))
    assert fit(found, [0, 1]).like == 1
    with pytest.raises(NoSuchProcess):
        fit(found, [0])


def test_like() -> None:
    found = look_at(Image([5]), Mine([6]), Image([7]))
    assert like(found, "image") == [0, 2]
    assert like(found, "mine") == like(found, str(MINE)) == [1]
    with pytest.raises(NoSuchProcess, match="'nobody'"):
        like(found, "nobody")
