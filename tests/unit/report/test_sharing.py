"""The matrix says what the pairs say, in an order that shows clusters."""

from __future__ import annotations

import re
from itertools import pairwise

from pagemerge.report import sharing
from pagemerge.report.given import Given, Room
from tests.support import figures
from tests.support.figures import PAGE


def drawn(groups: int, room: Room | None = None) -> sharing.Sharing:
    found = sharing.section(Given(figures.host(3, groups)), room or Room())
    assert found is not None and isinstance(found.content, sharing.Sharing)
    return found.content


def matrix(groups: int) -> sharing.Matrix:
    found = drawn(groups).matrix
    assert found is not None
    return found


def test_the_matrix_holds_every_pair() -> None:
    found = matrix(50)
    pages = list(map(int, found.pages.split(",")))
    pairs = {
        frozenset((pair["first"], pair["second"])): pair["common_pages"]
        for pair in figures.host(3, 50)["sharing"]["pairs"]
    }
    names = found.names
    assert len(names) == 50 and len(pages) == 50 * 49 // 2
    told = iter(pages)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            assert next(told) == pairs.get(frozenset((one, other)), 0)


def test_cells_lie_where_the_pairs_are_and_clusters_together() -> None:
    found = matrix(50)
    cells = [re.findall(r"M(\d+) (\d+)h1v1h-1z", level.path) for level in found.levels]
    strong = {(int(x), int(y)) for x, y in cells[0]}
    assert strong and all((y, x) in strong for x, y in strong), "it is symmetric"
    kinds = [name[:2] for name in found.names]
    assert sum(one != other for one, other in pairwise(kinds)) == 4
    assert all(kinds[x] == kinds[y] for x, y in strong)
    count = sum(map(len, cells))
    assert count == 2 * sum(value != "0" for value in found.pages.split(","))


def test_large_matrices_have_small_cells_and_few_numbers() -> None:
    few, many = matrix(5), matrix(50)
    assert few.cell > many.cell and many.side <= 800
    assert [number for _, number, _ in few.heads] == ["1", "2", "3", "4", "5"]
    assert len(many.heads) == 11 and sum(always for *_, always in many.heads) == 6


def test_the_list_is_bounded_and_the_largest_is_full() -> None:
    found = drawn(50)
    assert len(found.groups) == sharing.LISTED
    assert found.more == "Left out: 30 more groups with less memory."
    first = found.groups[0].stack.segments
    assert sum(float(it.width.rstrip("%")) for it in first) > 99.9
    assert found.pairs[0][0] == max(
        (f"{pair['common_pages'] * PAGE / 1e6:.0f} MB" for pair in pairs_of(50)), key=len
    )
    small = drawn(50, Room(groups=4))
    assert small.matrix is not None and len(small.matrix.names) == 4
    assert small.matrix.more == "Left out: 46 more groups with less in common."


def pairs_of(groups: int) -> list[dict[str, int]]:
    found: list[dict[str, int]] = figures.host(3, groups)["sharing"]["pairs"]
    return found


def test_nothing_in_common_is_said_and_not_drawn() -> None:
    group = {"name": "one", "pages": 5, "processes": 1}
    alone = sharing.section(Given({"sharing": {"groups": [group]}}), Room())
    assert alone and alone.words == (
        "The one group that was looked at has no other to share with.",
    )
    two = {"groups": [group, {"name": "two", "pages": 7}], "pairs": [], "compared": ["one", "two"]}
    found = sharing.section(Given({"sharing": two}), Room())
    assert found and found.words == ("No two of 2 groups have a page in common.",)
    assert isinstance(found.content, sharing.Sharing) and found.content.matrix is None
    assert [it.name for it in found.content.groups] == ["two", "one"]
    assert sharing.section(Given({}), Room()) is None
