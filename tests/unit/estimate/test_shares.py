"""What merging would free of each mapping, on looks made by hand, against a count one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pagemerge._core import ABSENT, ZERO
from pagemerge.estimate.shares import shares
from pagemerge.find.look import Look
from pagemerge.find.process import Process
from pagemerge.find.sources import ProcessSource, Source
from pagemerge.linux.maps import Mapping
from pagemerge.model import PAGE_SIZE

Made = list[tuple[Hashable, list[list[int]]]]
"""Domain, and the contents of each mapping; processes of one domain follow each other."""


def look_at(made: Made) -> Look:
    """A look at processes with the pids 0, 1, ..., each mapping in runs of two pages."""
    sources: list[Source] = []
    digests: list[int] = []
    for pid, (domain, mappings) in enumerate(made):
        source = ProcessSource(Process(pid, "x", 0), domain=domain)
        lengths = [[len(it[at : at + 2]) for at in range(0, len(it), 2)] for it in mappings]
        source.mappings = [
            Mapping(at << 20, (at << 20) + len(it) * PAGE_SIZE, "rw-p", "00:00", 0, "")
            for at, it in enumerate(mappings)
        ]
        source.runs = [len(it) for it in lengths]
        source.pages = np.array([it for one in lengths for it in one], np.uint64)
        source.starts = np.zeros(len(source.pages), np.uint64)
        sources.append(source)
        digests += [it for one in mappings for it in one]
    offsets = np.cumsum([0] + [it.total for it in sources])
    frames = np.full(len(digests), ABSENT, np.uint64)
    return Look(sources, np.array(digests, np.uint64), frames, offsets, 0, 0, 1.0)


def test_parts_of_mappings() -> None:
    found = look_at([("a", [[5, 5, 6, 7], [8]]), ("a", [[6, ZERO, 9]]), ("b", [[5]])])
    first, second, third = (shares(found, {0, 1, 2})[pid] for pid in range(3))
    assert (first.saves / PAGE_SIZE).tolist() == [0.5 + 0.5 + 0.5, 0]
    assert (second.saves / PAGE_SIZE).tolist() == [0.5 + 1]
    assert third.saves.tolist() == [0]
    assert [it.alone for it in (first, second, third)] == [False, False, True]
    assert third.elsewhere_pages == 1 and first.elsewhere_pages == 0
    assert third.elsewhere_bytes == int(2 / 3 * PAGE_SIZE)
    assert list(shares(found, {1})) == [1]


def test_one_domain_has_nothing_elsewhere() -> None:
    found = look_at([("a", [[5]]), ("a", [[5]])])
    assert shares(found, {0})[0].elsewhere_bytes == 0
    assert shares(found, ()) == {}


contents = st.lists(st.integers(ZERO, 9), min_size=1, max_size=5)
processes = st.lists(st.lists(contents, min_size=1, max_size=3), min_size=1, max_size=3)


@given(st.lists(processes, min_size=1, max_size=3))
def test_against_a_count_one_by_one(domains: list[list[list[list[int]]]]) -> None:
    made: Made = [(name, one) for name, members in enumerate(domains) for one in members]
    found = shares(look_at(made), range(len(made)))
    everywhere = Counter(it for _, one in made for mapping in one for it in mapping)
    for pid, (name, mappings) in enumerate(made):
        inside = Counter(
            it for other, one in made if other == name for mapping in one for it in mapping
        )

        def gain(counts: Counter[int], content: int) -> float:
            return 1.0 if content == ZERO else 1 - 1 / counts[content]

        wanted = [sum(gain(inside, it) for it in mapping) for mapping in mappings]
        assert np.allclose(found[pid].saves / PAGE_SIZE, wanted)
        own = [it for mapping in mappings for it in mapping]
        more = sum(gain(everywhere, it) - gain(inside, it) for it in own)
        assert abs(found[pid].elsewhere_bytes / PAGE_SIZE - more) < 0.01
        alone = [it for it in own if gain(inside, it) == 0 and gain(everywhere, it) > 0]
        assert found[pid].elsewhere_pages == len(alone)
