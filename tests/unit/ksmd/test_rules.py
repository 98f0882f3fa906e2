"""Rules: opt-out wins, all matchers must fit, and kernel KSM belongs to one user at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.ksmd.decide.rules import Choice, Rule, fits, rule_on
from pagemerge.linux.identity import Identity

WEB = Identity(
    pid=100,
    start_time=5000,
    uid=33,
    user="www-data",
    name="nginx",
    command="nginx: worker process",
    cgroup="/system.slice/web-1.service",
    unit="web-1.service",
    guest="",
)
GUEST = Identity(
    pid=200,
    start_time=6000,
    uid=64055,
    user="libvirt-qemu",
    name="qemu-system-x86",
    command="/usr/bin/qemu-system-x86_64 -name guest=db,debug-threads=on -m 4096",
    cgroup=r"/machine.slice/machine-qemu\x2d1\x2ddb.scope/libvirt/emulator",
    unit=r"machine-qemu\x2d1\x2ddb.scope",
    guest="db",
)


def test_pagemerge_itself_is_not_opted_in_and_may_not_stay_in() -> None:
    """``pagemerge run -- nginx`` has the words of what it is about to run."""
    ours = replace(WEB, ours=True)
    every = Rule("in", command="*nginx*")
    assert rule_on([ours], [every]).decisions == ()
    assert [it.opt for it in rule_on([ours], [every, Rule("out", unit="web-*")]).decisions] == [
        "out"
    ]
    found = rule_on([ours, GUEST], [every, Rule("in", guest="*")])
    assert (found.holder, len(found.decisions)) == (GUEST.uid, 1)


def test_a_guest_with_mem_merge_off_is_out_whatever_rule_fits() -> None:
    quiet = replace(GUEST, pid=201, mem_merge=False)
    every, out = Rule("in", guest="*"), Rule("out", guest="d*")
    reason = "out: QEMU was started with mem-merge=off (libvirt: <nosharepages/>)"
    for rules in ([every], [Rule("in", command="*", select=True), every]):
        decisions = {it.who.pid: it for it in rule_on([quiet, GUEST], rules).decisions}
        assert decisions[201] == Choice(quiet, "out", False, reason)
        assert decisions[200].opt == "in"
    assert one(quiet, every, out).reason == "out: rule 2, guest d*"
    assert rule_on([quiet], [Rule("in", unit="other")]).decisions == ()
    # It is nobody's claim to kernel KSM.
    assert rule_on([quiet], [every]).holder is None


@pytest.mark.parametrize(
    ("who", "rule", "fit"),
    [
        (WEB, Rule("in", unit="web-*.service"), True),
        (WEB, Rule("in", unit="web-[2-9].service"), False),
        (WEB, Rule("in", unit="WEB-*"), False),
        (WEB, Rule("in", user="www-data"), True),
        (WEB, Rule("in", user="33"), True),
        (WEB, Rule("in", user="3"), False),
        (WEB, Rule("in", user="www*"), False),
        (WEB, Rule("in", cgroup="/system.slice/*"), True),
        (WEB, Rule("in", cgroup="system.slice*"), False),
        (WEB, Rule("in", command="nginx*worker*"), True),
        (WEB, Rule("in", command="nginx"), False),
        (WEB, Rule("in", guest="*"), False),
        (WEB, Rule("in", unit="web-*", user="root"), False),
        (WEB, Rule("in", unit="web-*", user="www-data"), True),
        (GUEST, Rule("in", guest="d?"), True),
        (GUEST, Rule("in", unit="machine-qemu-*-db.scope"), True),
        (GUEST, Rule("in", unit=r"machine-qemu\x2d1\x2ddb.scope"), True),
        (replace(WEB, command=""), Rule("in", command="*"), False),
    ],
)
def test_matchers(who: Identity, rule: Rule, fit: bool) -> None:
    assert fits(who, rule) == fit


def one(who: Identity, *rules: Rule) -> Choice:
    (decision,) = rule_on([who], rules).decisions
    return decision


def test_out_wins_and_the_first_in_speaks() -> None:
    plain, select = Rule("in", user="33"), Rule("in", unit="web-*.service", select=True)
    assert one(WEB, select, plain) == Choice(WEB, "in", True, "in: rule 1, unit web-*.service")
    assert one(WEB, plain, select).select is False
    assert one(WEB, Rule("in", guest="*"), select).reason == "in: rule 2, unit web-*.service"
    last = Rule("out", command="nginx*", user="33")
    assert one(WEB, select, plain, last) == Choice(
        WEB, "out", False, "out: rule 3, user 33, command nginx*"
    )
    assert rule_on([WEB], [Rule("in", user="root")]).decisions == ()


EVERY = (Rule("in", command="*"),)


def test_one_user_at_a_time() -> None:
    ruling = rule_on([GUEST, WEB], EVERY)
    assert ruling.holder == 33, "it started first"
    assert [decision.opt for decision in ruling.decisions] == ["refused", "in"]
    reason = ruling.decisions[0].reason
    assert "merged with those of uid 33 (www-data)" in reason
    assert "across_users = true under [kernel]" in reason


def test_the_order_of_rules_says_who_comes_first() -> None:
    rules = Rule("in", guest="*"), Rule("in", user="33")
    assert rule_on([WEB, GUEST], rules).holder == GUEST.uid


def test_the_word_of_the_admin_lets_all_in() -> None:
    ruling = rule_on([GUEST, WEB], EVERY, across_users=True, holder=33)
    assert [decision.opt for decision in ruling.decisions] == ["in", "in"]
    assert ruling.holder is None


def test_a_holder_stays_until_its_last_process_has_gone() -> None:
    older = replace(WEB, pid=1, start_time=1)
    assert rule_on([GUEST, older], EVERY, holder=GUEST.uid).holder == GUEST.uid
    assert rule_on([older], EVERY, holder=GUEST.uid).holder == older.uid
    out = (*EVERY, Rule("out", guest="*"))
    assert rule_on([GUEST, older], out, holder=GUEST.uid).holder == older.uid, "who is out is out"
    assert rule_on([], EVERY, holder=5).holder is None


RULES = st.lists(
    st.builds(
        Rule,
        st.sampled_from(["in", "out"]),
        user=st.sampled_from(["", "0", "1", "2"]),
        unit=st.sampled_from(["", "a*", "b*"]),
    ),
    max_size=4,
)
PROCESSES = st.lists(
    st.builds(
        lambda pid, start, uid, unit: replace(
            WEB, pid=pid, start_time=start, uid=uid, user=str(uid), unit=unit
        ),
        st.integers(1, 9),
        st.integers(0, 3),
        st.integers(0, 3),
        st.sampled_from(["a.service", "b.service", "c.service"]),
    ),
    max_size=8,
    unique_by=lambda who: who.pid,
)


@given(PROCESSES, RULES, st.sampled_from([None, 0, 1, 9]), st.booleans(), st.randoms())
def test_what_always_holds(
    processes: list[Identity], rules: list[Rule], holder: int | None, all_in: bool, random: object
) -> None:
    ruling = rule_on(processes, rules, across_users=all_in, holder=holder)
    said = {decision.who.pid: decision for decision in ruling.decisions}
    for who in processes:
        opts = {rule.opt for rule in rules if fits(who, rule)}
        decision = said.get(who.pid)
        if "out" in opts:
            assert decision is not None
            assert decision.opt == "out"
        elif opts:
            assert decision is not None
            assert decision.opt == ("in" if all_in or who.uid == ruling.holder else "refused")
        else:
            assert decision is None
    users = {decision.who.uid for decision in ruling.decisions if decision.opt == "in"}
    if not all_in:
        assert users == ({ruling.holder} if ruling.holder is not None else set())
        if any(
            who.uid == holder and said[who.pid].opt == "in" for who in processes if who.pid in said
        ):
            assert ruling.holder == holder
        # The next look says the same, in whatever order processes are listed.
        random.shuffle(processes)  # type: ignore[attr-defined]
        again = rule_on(processes, rules, holder=ruling.holder)
        assert {decision.who.pid: decision for decision in again.decisions} == said
