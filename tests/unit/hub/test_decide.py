"""decide: pure functions on arrays."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.hub import budget
from pagemerge.hub.decide import pace, plan, restless, stability
from pagemerge.hub.decide.trust import may_join
from pagemerge.hub.model import BLOCK, NO_SLOT, ZERO_SLOT, Candidates
from pagemerge.hub.pages import Pages
from pagemerge.hub.regions import Region
from pagemerge.linux.domain import Domain
from pagemerge.model import ABSENT, PAGE_SIZE, ZERO

NOW = 1000
"""On the hub's clock."""


def pages_of(count: int) -> Pages:
    return Region.of(0, count).pages


def u64(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


class TestStability:
    def test_a_look_makes_a_candidate_and_a_change_costs_another(self) -> None:
        pages = pages_of(4)
        first = stability.observe(pages, 0, u64(7, 8, ZERO, ABSENT), 2, NOW)
        assert (first.stable, first.volatile) == (3, 0)
        assert stability.candidates(pages, 2).tolist() == [0, 1, 2]
        second = stability.observe(pages, 0, u64(7, 9, ZERO, ABSENT), 2, NOW)
        assert (second.stable, second.volatile) == (0, 1)
        assert stability.candidates(pages, 2).tolist() == [0, 2]
        third = stability.observe(pages, 0, u64(7, 9, ZERO, ABSENT), 2, NOW)
        assert (third.stable, third.volatile) == (1, 0)
        assert stability.candidates(pages, 2).tolist() == [0, 1, 2]

    def test_a_block_with_nothing_to_note_is_noted_as_beside_another(self) -> None:
        """Such blocks are noted without a look at each page."""
        alone, beside = pages_of(3 * BLOCK), pages_of(3 * BLOCK)
        for pages in (alone, beside):
            pages.slot[0] = 5  # merged, without a history
        nothing, some = np.zeros(2 * BLOCK, np.uint64), np.full(BLOCK, 9, np.uint64)
        quick = stability.observe(alone, 0, nothing, 2, NOW)
        stability.observe(alone, 2 * BLOCK, some, 2, NOW)
        full = stability.observe(beside, 0, np.append(nothing, some), 2, NOW)
        assert (quick.awake.tolist(), quick.empty.tolist()) == ([False] * 2, [True] * 2)
        assert (full.awake.tolist(), full.empty.tolist()) == (
            [False, False, True],
            [True, True, False],
        )
        assert (quick.changed, quick.separated, quick.came) == (0, 0, 0)
        for name in ("digest", "standing", "slot", "looked"):
            assert (getattr(alone, name)[:] == getattr(beside, name)[:]).all(), name
        written = stability.observe(alone, 0, np.append(u64(7), nothing[1:]), 2, NOW + 1)
        assert (written.separated, written.came, alone.slot[:1].tolist()) == (1, 1, [NO_SLOT])

    def test_more_looks_are_required_where_that_is_asked(self) -> None:
        pages = pages_of(2)
        for digests in ((7, 8), (7, 9), (7, 9), (7, 9)):
            found = stability.candidates(pages, 4).tolist()
            stability.observe(pages, 0, u64(*digests), 4, NOW)
        assert found == [0]
        assert stability.candidates(pages, 4).tolist() == [0]
        assert stability.observe(pages, 0, u64(7, 9), 4, NOW).stable == 1
        assert stability.candidates(pages, 4).tolist() == [0, 1]

    def test_a_page_that_always_changes_is_never_a_candidate_again(self) -> None:
        pages = pages_of(1)
        stability.observe(pages, 0, u64(7), 2, NOW)
        for digest in range(8, 20):
            assert stability.observe(pages, 0, u64(digest), 2, NOW).volatile == 1
            assert len(stability.candidates(pages, 2)) == 0

    def test_one_look_merges_at_first_sight(self) -> None:
        pages = pages_of(2)
        for digests in ((7, 8), (9, 8)):
            stability.observe(pages, 0, u64(*digests), 1, NOW)
            assert stability.candidates(pages, 1).tolist() == [0, 1]

    def test_a_merged_page_that_is_there_again_was_written(self) -> None:
        pages = pages_of(3)
        pages.slot[:] = [5, ZERO_SLOT, 6]
        seen = stability.observe(pages, 0, u64(11, 12, ABSENT), 2, NOW)
        assert seen.separated == 2
        assert pages.slot[:].tolist() == [NO_SLOT, NO_SLOT, 6]

    def test_a_page_that_went_away_must_prove_itself_again(self) -> None:
        pages = pages_of(1)
        for digest in (7, 7, ABSENT, 7):
            stability.observe(pages, 0, u64(digest), 3, NOW)
        assert len(stability.candidates(pages, 3)) == 0

    def test_what_could_not_be_merged_is_looked_at_anew(self) -> None:
        pages = pages_of(1)
        for _ in range(3):
            stability.observe(pages, 0, u64(7), 2, NOW)
        restless.begin_anew(pages, np.array([0]))
        assert len(stability.candidates(pages, 2)) == 0
        assert stability.observe(pages, 0, u64(7), 2, NOW).stable == 1


class TestRestless:
    """The clock begins somewhere, so what stands for so long stands up to twice as long."""

    def merge(self, pages: Pages) -> None:
        """As the hub notes it."""
        pages.digest[:], pages.slot[:] = ABSENT, 5
        restless.begin(pages, np.arange(len(pages.slot)))

    def seconds_between_merges(self, lasts: int, until: int) -> list[int]:
        """A page that always holds the same bytes, is looked at each second, merged as soon as may
        be, and written ``lasts`` seconds after each merge."""
        pages, merged = pages_of(1), [0]
        self.merge(pages)
        for now in range(1, until):
            is_merged = pages.slot[0] != NO_SLOT and now - merged[-1] < lasts
            stability.observe(pages, 0, u64(ABSENT if is_merged else 7), 2, now)
            if len(stability.candidates(pages, 2)):
                merged.append(now)
                self.merge(pages)
        return np.diff(merged).tolist()

    def test_a_page_that_separates_again_and_again_waits_twice_as_long_each_time(self) -> None:
        gaps = np.array(self.seconds_between_merges(1, 10_000))
        holds = 1 << np.arange(1, 11)
        assert gaps[: restless.FREE].tolist() == [1] * restless.FREE
        held = gaps[restless.FREE :]
        assert (held[:10] > holds).all()
        assert (held[:10] <= 1 + 2 * holds).all()
        assert (held[10:] <= 1 + 2 * holds[-1]).all(), "it is tried again for ever"

    def test_a_merge_that_lasted_has_paid(self) -> None:
        lasts = 3 << restless.PAID
        assert set(self.seconds_between_merges(lasts, 5000)) == {lasts}

    def test_the_first_changes_cost_no_time(self) -> None:
        """Memory that has changed for good is merged soon."""
        pages = pages_of(1)
        for _ in range(restless.FREE):
            self.merge(pages)
            assert became(stability.observe(pages, 0, u64(7), 2, NOW)) == 1
        self.merge(pages)
        assert became(stability.observe(pages, 0, u64(7), 2, NOW)) == 0

    def test_a_page_that_changes_now_and_then_must_stand_longer_than_that(self) -> None:
        """However often it is looked at in between. And it is merged once it stands."""
        pages, found = pages_of(1), []
        for now in range(3000):
            if became(stability.observe(pages, 0, u64(7 + min(now // 10, 200)), 2, now)):
                found.append(now)
        assert len([it for it in found if it < 2000]) < 8
        assert 2000 <= found[-1] < 2064

    def test_what_changes_at_each_look_does_not_wait_for_long_once_it_stands(self) -> None:
        """A page that is being filled: how often it was looked at meanwhile is no measure."""
        pages = pages_of(1)
        for digest in range(7, 100):
            stability.observe(pages, 0, u64(digest), 2, NOW)
        assert any(stability.observe(pages, 0, u64(99), 2, NOW + it).stable for it in range(5))

    def test_what_cannot_be_merged_is_tried_less_and_less(self) -> None:
        pages, tried = pages_of(1), []
        for now in range(3000):
            if len(stability.candidates(pages, 2)):
                tried.append(now)
                restless.begin_anew(pages, np.array([0]))
            stability.observe(pages, 0, u64(7), 2, now)
        assert 10 < len(tried) < 15

    def test_a_page_that_stood_for_long_is_not_held_for_it(self) -> None:
        """Though nothing was there to merge it with: what it holds now may be more common."""
        pages, now = pages_of(1), 0
        for content in range(7, 30):
            for _ in range(100):
                now += 1
                seen = stability.observe(pages, 0, u64(content), 2, now)
        assert restless.vain(pages.standing).tolist() == [0]
        assert seen.stable == 0
        stability.observe(pages, 0, u64(5), 2, now)
        assert stability.observe(pages, 0, u64(5), 2, now).stable == 1

    def test_pages_beside_it_do_not_wait(self) -> None:
        pages = pages_of(2 * BLOCK)
        for now in range(100):
            seen = np.full(2 * BLOCK, 9, np.uint64)
            seen[3] = 10 + now % 2
            stability.observe(pages, 0, seen, 2, now)
        seen[4] = 10
        stability.observe(pages, 0, seen, 2, 100)
        assert stability.observe(pages, 0, seen, 2, 100).stable == 1

    @pytest.mark.parametrize(
        ("longest", "most"), [(0, 4), (3.9, 4), (4, 5), (63, 8), (1024, 13), (2048, 14)]
    )
    def test_an_admin_may_bound_it(self, longest: float, most: int) -> None:
        assert restless.most_vain(longest) == most
        pages = pages_of(1)
        for _ in range(20):
            restless.begin_anew(pages, np.array([0]), most)
        assert restless.vain(pages.standing).tolist() == [most]

    @pytest.mark.parametrize("required", [1, 2, 3, 15, 16])
    def test_what_stands_becomes_a_candidate_whatever_is_required(self, required: int) -> None:
        pages = pages_of(1)
        for _ in range(restless.FREE + 1):
            restless.begin_anew(pages, np.array([0]))
        for now in range(0, 40, 2):
            stability.observe(pages, 0, u64(7), required, now)
        assert stability.candidates(pages, required).tolist() == [0]

    def test_the_clock_may_go_round(self) -> None:
        pages, late = pages_of(1), (1 << 16) - 1
        for _ in range(restless.FREE + 1):
            restless.begin_anew(pages, np.array([0]))
        found = [became(stability.observe(pages, 0, u64(7), 2, late + it)) for it in range(6)]
        assert sum(found) == 1


class TestAnotherAttempt:
    """Pages that were merged in vain, or stand on a slab, are told apart."""

    def test_a_page_that_stands_on_a_slab(self) -> None:
        pages = pages_of(2)
        pages.under[1] = 5
        seen = stability.observe(pages, 0, u64(7, 8), 1, NOW)
        assert (seen.stable, seen.again) == (1, 1)
        assert stability.candidates(pages, 1).tolist() == [0, 1]
        assert stability.candidates(pages, 1, again=False).tolist() == [0]

    def test_a_page_that_stood_in_vain_twice(self) -> None:
        pages = pages_of(2)
        for _ in range(2):
            restless.begin_anew(pages, np.array([1]))
        seen = stability.observe(pages, 0, u64(7, 8), 1, NOW)
        assert (seen.stable, seen.again) == (1, 1)
        assert stability.candidates(pages, 1, again=False).tolist() == [0]

    def test_time_is_earned_spent_and_owed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 100.0
        monkeypatch.setattr("pagemerge.hub.budget.time.monotonic", lambda: now)
        allowance = budget.Allowance(0.05)
        assert allowance.is_left
        allowance.spend(budget.MOST_SPARE)
        assert not allowance.is_left
        now += 1.0
        assert allowance.is_left
        allowance.spend(1000.0)
        now += budget.MOST_OWED / 0.05 - 1
        assert not allowance.is_left
        now += 2.0
        assert allowance.is_left
        allowance.share = 1.0
        allowance.spend(1000.0)
        assert allowance.is_left, "there is no limit"


def became(seen: stability.Observed) -> int:
    """The pages that a look made candidates."""
    return seen.stable + seen.again


class TestPace:
    def test_what_costs_more_than_it_finds_waits(self) -> None:
        assert pace.patience(0.001, 100, 0, 0) == 0.0
        assert pace.patience(0.1, 100, 0, 0) == pytest.approx((0.1 - 100 * pace.WORTH) / pace.LOW)
        assert pace.patience(0.1, 100_000, 0, 0) == 0.0
        assert 0.0 < pace.patience(0.1, inf, 0, 0) < pace.patience(0.1, 0, 0, 0)
        assert pace.patience(0.1, 0, 1000, 0) < pace.patience(0.1, 0, 0, 0)
        assert pace.patience(0.1, 0, 100_000, 0) == 0.0, "a first look is worth what it costs"
        assert pace.patience(0.3, inf, 150_000, 75_000) == 0.0, "new regions hide no merged pages"

    def test_quiet_blocks_are_looked_at_less_and_less(self) -> None:
        pages = pages_of(BLOCK)
        looked = []
        for cycle in range(400):
            for first, count in pace.due(pages):
                seen = stability.observe(pages, first, np.full(count, 9, np.uint64), 2, NOW)
                pace.settle(pages, first, seen.awake, seen.empty)
                looked.append(cycle)
        gaps = np.diff(looked)
        assert looked[:4] == [0, 1, 3, 7]
        assert (np.diff(gaps) >= 0).all()
        assert gaps.max() == pace.MOST_SKIPPED + 1

    def test_empty_blocks_are_looked_at_in_every_32nd_look(self) -> None:
        pages = pages_of(2 * BLOCK)
        nothing = np.zeros(2 * BLOCK, np.uint64)
        looked = []
        for cycle in range(200):
            if pace.due(pages):
                seen = stability.observe(pages, 0, nothing, 2, NOW)
                pace.settle(pages, 0, seen.awake, seen.empty)
                looked.append(cycle)
        assert looked[:7] == [0, 2, 2 + 4, 6 + 8, 14 + 16, 30 + 32, 62 + 32]

    def test_new_pages_wake_a_block(self) -> None:
        pages = pages_of(2 * BLOCK)
        pages.quiet[:] = 9
        seen = stability.observe(pages, 0, np.full(BLOCK, 9, np.uint64), 2, NOW)
        pace.settle(pages, 0, seen.awake, seen.empty)
        assert pages.wait.tolist() == [0, 0]

    def test_empty_blocks_of_a_client_that_fills_memory_are_looked_at(self) -> None:
        pages = pages_of(3 * BLOCK)
        seen = np.zeros(3 * BLOCK, np.uint64)
        seen[BLOCK : 2 * BLOCK] = 9
        for _ in range(4):
            observed = stability.observe(pages, 0, seen, 2, NOW)
            pace.settle(pages, 0, observed.awake, observed.empty)
        assert pages.wait.tolist() == [15, 7, 15]
        pace.recall(pages)
        assert pages.wait.tolist() == [0, 7, 0]

    def test_growth_that_is_found_nowhere_counts_less_and_less(self) -> None:
        assert pace.is_filling(50, 100, 1)
        assert not pace.is_filling(49, 100, 1)
        assert not pace.is_filling(pace.FEW - 1, 1, 1)
        vain = 1
        for times in (2, 4, 8):
            vain = pace.in_vain(vain, 1000, 249)
            assert vain == times
        assert not pace.is_filling(399, 100, vain)
        assert pace.in_vain(pace.MOST_VAIN, 1000, 0) == pace.MOST_VAIN
        assert pace.in_vain(vain, 1000, 250) == 1

    def test_a_block_of_which_all_is_merged_is_empty(self) -> None:
        pages = pages_of(BLOCK)
        for digest in (9, ABSENT, 9):
            seen = stability.observe(pages, 0, np.full(BLOCK, digest, np.uint64), 2, NOW)
            pace.settle(pages, 0, seen.awake, seen.empty)
            assert pages.empty.tolist() == [digest == ABSENT]

    def test_turns_that_have_drifted_apart_come_together(self) -> None:
        """A look for each group, not one for each block; and no block more than twice as often."""
        pages = pages_of(2 * pace.MOST_AT_ONCE * BLOCK)
        pages.digest[:], pages.standing[:] = 9, 3
        pages.quiet[:] = 16
        pages.wait[:] = np.random.default_rng(1).permutation(len(pages.wait)) % 64
        blocks = np.zeros(len(pages.wait), np.int64)
        looks = 0
        for cycle in range(640):
            for first, count in pace.due(pages):
                seen = stability.observe(pages, first, np.full(count, 9, np.uint64), 2, NOW)
                pace.settle(pages, first, seen.awake, seen.empty)
                if cycle >= 320:
                    looks += 1
                    blocks[first // BLOCK : (first + count) // BLOCK] += 1
        assert blocks.min() >= 5
        assert blocks.max() <= 10
        assert looks <= 2 * 2 * 5

    def test_due_runs_are_cut_and_end_with_the_region(self) -> None:
        most = pace.MOST_AT_ONCE
        pages = pages_of((2 * most + 4) * BLOCK + 3)
        runs = pace.due(pages)
        assert runs == [
            (0, most * BLOCK),
            (most * BLOCK, most * BLOCK),
            (2 * most * BLOCK, 4 * BLOCK + 3),
        ]
        pages.wait[3] = 2
        assert pace.due(pages)[0] == (0, 3 * BLOCK)
        assert pages.wait[3] == 1

    def test_reward_brings_blocks_back(self) -> None:
        pages = pages_of(2 * BLOCK)
        pages.quiet[:], pages.wait[:] = 9, 40
        pace.reward(pages, np.array([BLOCK + 1]))
        assert pages.wait.tolist() == [40, 0]

    def test_pauses_grow_keep_the_budget_and_end_with_a_yield(self) -> None:
        assert pace.pause(1.0, inf, 2) == 0.05
        assert pace.pause(1.0, 0, 2) == 2
        assert pace.pause(0.3, 1, 2) == 0.6
        assert pace.pause(1.0, 4 * pace.FEW, 2) == 0.25, "so that each finds about as many"
        assert pace.pause(1.0, pace.FEW, 2) == 1.0
        assert pace.pause(0.0, inf, 0.001) == 0.001
        assert pace.rest(1.0, 1.0, 0.25) == pytest.approx(3.0)
        assert pace.rest(1.0, 5.0, 0.25) == 0, "it waited for clients long enough"
        assert pace.rest(1.0, 0.5, 1.0) == pytest.approx(0.5), "two threads at work"

    def test_a_client_is_looked_at_after_its_pause_at_the_latest(self) -> None:
        for looked in (0.3, 1.9, 77.77):
            for pause in (0.05, 0.1, 0.7, 1.0, 1.6, 2.0):
                assert looked < pace.appointment(looked, pause, 2) <= looked + pause
        assert pace.appointment(77.7, 0.0, 2) == 77.7, "at once"
        assert pace.appointment(77.7, 0.02, 0.02) == pytest.approx(77.72)

    def test_clients_whose_pauses_are_about_as_long_are_looked_at_in_one_cycle(self) -> None:
        random = np.random.default_rng(1)
        looked = 100 + random.random(50) * 2
        assert {pace.appointment(it, 2.0, 2.0) for it in looked} == {102.0}
        pauses = 1 + random.random(50) * 0.9
        dues = {pace.appointment(*it, 2.0) for it in zip(looked, pauses, strict=True)}
        assert all(it == int(it) for it in dues), "multiples of half of the longest pause"

    def test_who_rests_for_the_longest_pause_keeps_it(self) -> None:
        now = 100.3
        for _ in range(9):
            before, now = now, pace.appointment(now, 2.0, 2.0) + 0.01
        assert now - before == pytest.approx(2.0)


class TestPlan:
    def candidates(self, *digests: int) -> Candidates:
        count = len(digests)
        address = np.arange(count, dtype=np.uint64) * np.uint64(PAGE_SIZE)
        return Candidates(np.zeros(count, np.uint32), address, u64(*digests))

    def test_new_slots_follow_the_order_of_their_first_pages(self) -> None:
        found = self.candidates(30, 10, 30, 20, 10, 20, 99, ZERO)
        known = np.full(8, NO_SLOT, np.uint32)
        members, starts = np.array([1, 4, 3, 5, 0, 2]), np.array([0, 2, 4, 6])
        layout = plan.lay_out(found, known, members, starts, next_slot=100)
        assert layout.slot.tolist() == [100, 101, 100, 102, 101, 102, NO_SLOT, ZERO_SLOT]
        assert layout.donors.tolist() == [0, 1, 3]

    def test_what_the_store_has_gets_no_new_slot(self) -> None:
        found = self.candidates(30, 10, 30)
        known = np.array([4, NO_SLOT, 4], np.uint32)
        layout = plan.lay_out(found, known, np.array([0, 2]), np.array([0, 2]), next_slot=9)
        assert layout.slot.tolist() == [4, NO_SLOT, 4]
        assert len(layout.donors) == 0

    def test_runs_break_at_gaps_slabs_and_zeros(self) -> None:
        page = np.array([0, 1, 2, 4, 5, 6, 7, 8], np.uint64)
        slot = np.array([1, 2, 3, 4, 5, 9, ZERO_SLOT, ZERO_SLOT], np.uint32)
        slab = u64(1, 1, 2, 2, 2, 2, 0, 0)
        found = plan.runs(page * np.uint64(PAGE_SIZE), slot, slab)
        assert found.first.tolist() == [0, 2, 3, 5, 6]
        assert found.pages.tolist() == [2, 1, 2, 1, 2]

    def test_the_longest_runs_come_first_when_mappings_are_short(self) -> None:
        found = plan.runs(
            u64(0, 2, 3, 5, 7, 8, 9, 20) * np.uint64(PAGE_SIZE),
            np.array([0, 2, 3, 5, 7, 8, 9, ZERO_SLOT], np.uint32),
            u64(1, 1, 1, 1, 1, 1, 1, 0),
        )
        costs = np.array([True, True, True, True, False])
        assert found.pages.tolist() == [1, 2, 1, 3, 1]
        assert plan.within_budget(found, costs, 2, 1).tolist() == [1, 3, 4]
        assert plan.within_budget(found, costs, 99, 2).tolist() == [1, 3, 4]
        assert plan.within_budget(found, costs, 0, 1).tolist() == [4]

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=60))
    def test_runs_cover_every_page_once(self, pairs: list[tuple[int, int]]) -> None:
        pairs = sorted(dict(pairs).items())
        page = np.array([page for page, _ in pairs], np.uint64)
        slot = np.array([slot for _, slot in pairs], np.uint32)
        slab = (slot // 4 + 1).astype(np.uint64)
        found = plan.runs(page * np.uint64(PAGE_SIZE), slot, slab)
        assert int(found.pages.sum()) == len(page)
        for first, count in zip(found.first.tolist(), found.pages.tolist(), strict=True):
            run = slice(first, first + count)
            assert (np.diff(page[run].astype(int)) == 1).all()
            assert (np.diff(slot[run].astype(int)) == 1).all()
            assert len(set(slab[run].tolist())) == 1


class TestStages:
    """When a client merges its pages, while slabs are filled one after the other."""

    def test_pages_in_the_order_of_the_slots_do_not_wait(self) -> None:
        page, stage = np.arange(4096, dtype=np.uint64), np.repeat(np.arange(8), 512)
        when = plan.stages(page * np.uint64(PAGE_SIZE), stage, last=7)
        assert (when == stage).all()

    def test_scattered_pages_wait_for_all(self) -> None:
        page, stage = np.arange(4096, dtype=np.uint64), np.tile(np.arange(8), 512)
        when = plan.stages(page * np.uint64(PAGE_SIZE), stage, last=7)
        assert (when == 7).all()

    def test_pages_that_are_a_little_out_of_order_wait_a_little(self) -> None:
        page, stage = np.arange(4096, dtype=np.uint64), np.repeat(np.arange(8), 512)
        stage = stage.reshape(4, 2, 512).swapaxes(1, 2).ravel()  # two slabs alternate
        when = plan.stages(page * np.uint64(PAGE_SIZE), stage, last=7)
        assert when.tolist() == np.repeat([1, 3, 5, 7], 1024).tolist()

    @given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 9)), max_size=300))
    def test_nothing_is_merged_before_it_is_there(self, pairs: list[tuple[int, int]]) -> None:
        pairs = sorted(dict(pairs).items())
        page = np.array([page for page, _ in pairs], np.uint64)
        stage = np.array([stage for _, stage in pairs], np.int64)
        when = plan.stages(page * np.uint64(PAGE_SIZE), stage, last=9)
        assert (when >= stage).all()
        assert (when <= 9).all()


class TestTrust:
    def test_a_users_hub_serves_that_user_and_roots_serves_all(self) -> None:
        assert may_join(1000, 1000)
        assert may_join(1000, 0)
        assert not may_join(1001, 1000)
        assert not may_join(0, 1000)

    def test_domains_differ_by_owner_namespace_and_label(self) -> None:
        domains = {Domain(1), Domain(2), Domain(1, 7), Domain(1, 0, "label")}
        assert len(domains) == 4


def test_a_plan_is_told_in_parts_of_whole_runs() -> None:
    runs = np.array([3, 3, 10, 1, 1], np.uint32)
    cut = [(it.start, it.stop, at.start, at.stop) for it, at in plan.parts(runs, 4)]
    assert cut == [(0, 2, 0, 6), (2, 3, 6, 16), (3, 5, 16, 18)]
    assert plan.parts(runs[:0], 4) == []
