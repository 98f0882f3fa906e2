"""A rule is said to have no effect only if there is no process for which it counts."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.ksmd.decide.covered import covered
from pagemerge.ksmd.decide.rules import MATCHERS, Rule, rule_on
from pagemerge.linux.identity import Identity


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([Rule("in", unit="a"), Rule("in", unit="a")], [(1, 0)]),
        ([Rule("in", unit="a"), Rule("in", unit="a", user="x")], [(1, 0)]),
        ([Rule("in", unit="a", user="x"), Rule("in", unit="a")], []),
        ([Rule("in", unit="a*"), Rule("in", unit="ab?d*")], [(1, 0)]),
        ([Rule("in", unit="a?"), Rule("in", unit="ab")], [(1, 0)]),
        ([Rule("in", unit="a?"), Rule("in", unit="a*")], []),
        ([Rule("in", unit="*a*"), Rule("in", unit="[abc]")], []),
        ([Rule("in", unit="vm-*"), Rule("in", unit="vm\\x2d1")], [(1, 0)]),
        ([Rule("in", command="*"), Rule("in", user="x")], [(1, 0)]),
        ([Rule("in", guest="*"), Rule("in", user="x")], []),
        ([Rule("in", user="x"), Rule("out", user="x")], [(0, 1)]),
        ([Rule("out", user="x"), Rule("in", user="x")], [(1, 0)]),
        ([Rule("out", user="x"), Rule("out", user="x", unit="a")], [(1, 0)]),
        ([Rule("in", user="x"), Rule("in", user="y")], []),
        ([Rule("in", user="x", select=True), Rule("in", user="x")], [(1, 0)]),
    ],
)
def test_which_rules_never_apply(rules: list[Rule], found: list[tuple[int, int]]) -> None:
    assert list(covered(rules)) == found


words = st.text("ab*?[]", max_size=3)
some_rules = st.builds(
    Rule,
    st.sampled_from(["in", "out"]),
    cgroup=words,
    unit=words,
    user=st.sampled_from(["", "a", "b"]),
    command=words,
    guest=words,
).filter(lambda rule: any(getattr(rule, name) for name in MATCHERS))
TEXTS = ["".join(it) for size in range(3) for it in itertools.product("ab[", repeat=size)]
texts = st.sampled_from(TEXTS)
people = st.builds(
    Identity,
    pid=st.integers(1, 3),
    start_time=st.just(1),
    uid=st.just(1),
    user=st.sampled_from(["a", "b"]),
    name=texts,
    command=st.sampled_from(TEXTS[1:]),
    cgroup=texts,
    unit=texts,
    guest=texts,
)


@given(st.lists(some_rules, min_size=1, max_size=4), st.lists(people, min_size=10, max_size=30))
def test_no_process_is_decided_by_a_rule_without_effect(
    rules: list[Rule], processes: list[Identity]
) -> None:
    without = {index + 1 for index, _ in covered(rules)}
    for who in processes:
        for choice in rule_on([who], rules, across_users=True).decisions:
            number = int(choice.reason.split("rule ")[1].split(",")[0])
            assert number not in without, (who, rules)


def test_thousands_of_rules_take_little_time() -> None:
    rules = [Rule("in", unit=f"*a*b*{number}*", guest="*") for number in range(9000)]
    start = time.process_time()
    list(covered(rules))
    assert time.process_time() - start < 20
