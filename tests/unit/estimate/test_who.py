"""Who shares with whom: against counting by hand, letter by letter."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from pagemerge.estimate import trust, who
from pagemerge.find.look import look
from pagemerge.find.survey import summed_up
from tests.support.pages import Pages, of_letters

texts = st.lists(
    st.tuples(st.text("abcde.", max_size=12), st.sampled_from("XYZ"), st.sampled_from("pq")),
    min_size=1,
    max_size=6,
)


def counted_by_hand(
    sources: list[tuple[str, str, str]],
) -> tuple[dict[str, Counter[str]], Counter[tuple[str, str]]]:
    """Figures of each group, and contents in common of each two."""
    holders: dict[tuple[str, str], Counter[str]] = {}
    groups: dict[str, Counter[str]] = {}
    for text, group, domain in sources:
        groups.setdefault(group, Counter()).update(pages=len(text), zero=text.count("."))
        for letter in text.replace(".", ""):
            holders.setdefault((letter, domain), Counter())[group] += 1
    pairs = Counter[tuple[str, str]]()
    for held in holders.values():
        for group, copies in held.items():
            if len(held) > 1:
                groups[group]["shared"] += copies
            else:
                groups[group].update(own=copies - 1, exclusive=1)
        pairs.update(combinations(sorted(held), 2))
    return groups, pairs


@given(texts)
def test_groups_and_pairs(sources: list[tuple[str, str, str]]) -> None:
    made = [
        Pages(str(at), of_letters(text), domain) for at, (text, _, domain) in enumerate(sources)
    ]
    found = look(made, 1)
    group_of = {str(at): group for at, (_, group, _) in enumerate(sources)}
    result = who.sharing(found, [group_of[it.name] for it in found.sources], "test")
    groups, pairs = counted_by_hand(sources)
    assert {it.name for it in result.groups} == {it for it, held in groups.items() if held["pages"]}
    for one in result.groups:
        held = groups[one.name]
        assert (one.pages, one.zero_pages) == (held["pages"], held["zero"])
        assert one.own_duplicate_pages == held["own"]
        assert one.shared_pages == held["shared"]
        assert one.exclusive_pages == held["exclusive"]
        assert one.sources == sum(group == one.name for _, group, _ in sources)
    told = {
        (min(it.first, it.second), max(it.first, it.second)): it.contents for it in result.pairs
    }
    assert told == dict(pairs)
    numbers = [it.contents for it in result.pairs]
    assert numbers == sorted(numbers, reverse=True)


def test_only_the_largest_groups_are_compared() -> None:
    made = [Pages(str(at), of_letters("ab"[: 1 + at % 2])) for at in range(who.MOST_COMPARED + 9)]
    found = look(made, 1)
    result = who.sharing(found, [it.name for it in found.sources], "test")
    assert len(result.compared) == who.MOST_COMPARED
    assert len(result.pairs) == who.MOST_COMPARED * (who.MOST_COMPARED - 1) // 2


@given(texts)
def test_the_price_of_trust(sources: list[tuple[str, str, str]]) -> None:
    made = [
        Pages(str(at), of_letters(text), domain) for at, (text, _, domain) in enumerate(sources)
    ]
    found = look(made, 1)
    price = trust.price(found, summed_up(found).totals)

    def saved(texts: list[str]) -> int:
        letters = Counter("".join(texts))
        return letters.pop(".", 0) + sum(copies - 1 for copies in letters.values())

    domains = {domain for text, _, domain in sources if text}
    apart = [[text for text, _, of in sources if of == domain] for domain in domains]
    assert price.domains == len(domains)
    assert price.apart_pages == sum(map(saved, apart))
    assert price.together_pages == saved([text for text, _, _ in sources])
    assert price.zero_pages == sum(text.count(".") for text, _, _ in sources)
    assert price.lost_pages == price.together_pages - price.apart_pages >= 0
