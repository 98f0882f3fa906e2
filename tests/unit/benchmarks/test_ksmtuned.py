"""ksmtuned's rules, as published, which a benchmark measures beside our governor."""

from __future__ import annotations

import pytest
from benchmarks.lab.ksmtuned import Memory, Setting, adjust, sleep_millisecs

GB = 1 << 30


@pytest.mark.parametrize(
    ("free", "committed", "run"),
    [
        (12, 4, False),  # much is free, and the guests leave a fifth
        (12, 13, True),  # 13 and a fifth of 16 do not fit
        (3, 4, True),  # less than a fifth is free
    ],
)
def test_it_starts_when_the_threshold_is_crossed(free: int, committed: int, run: bool) -> None:
    assert adjust(Setting(), Memory(16 * GB, free * GB, committed * GB)).run is run


def test_it_works_harder_while_little_is_free_and_up_to_a_limit() -> None:
    setting, pages = Setting(), []
    for _ in range(6):
        setting = adjust(setting, Memory(16 * GB, GB, 15 * GB))
        pages.append(setting.npages)
    assert pages == [300, 600, 900, 1200, 1250, 1250]


def test_it_slows_down_while_more_than_the_threshold_is_free() -> None:
    setting, pages = Setting(True, 180), []
    for _ in range(4):
        setting = adjust(setting, Memory(16 * GB, 8 * GB, 15 * GB))
        pages.append(setting.npages)
    assert pages == [130, 80, 64, 64]


def test_it_remembers_its_batch_while_it_stands() -> None:
    stopped = adjust(Setting(True, 600), Memory(16 * GB, 12 * GB, GB))
    assert stopped == Setting(False, 600)


def test_a_tiny_host_has_a_threshold_of_2_mib() -> None:
    assert adjust(Setting(), Memory(4 << 20, 3 << 20, (2 << 20) + 1)).run
    assert not adjust(Setting(), Memory(4 << 20, 3 << 20, 1 << 20)).run


def test_smaller_hosts_sleep_more_and_larger_ones_not_less() -> None:
    assert [sleep_millisecs(size * GB) for size in (2, 4, 16, 64)] == [80, 40, 10, 10]
