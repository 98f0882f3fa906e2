"""Topics of the governor's decisions: each reason that the governor gives has one."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import msgspec
import pytest

from pagemerge.ksmd.decide import govern as module
from pagemerge.ksmd.governor import Step
from pagemerge.watch.topics import OTHER, TOPICS, topic_of, words_of

TRACES = sorted((Path(__file__).parents[1] / "ksmd" / "traces").glob("*.jsonl.gz"))
SAMPLES = {
    "no process has mergeable memory": "no_process",
    "the last process with mergeable memory has gone": "no_process",
    "the reserve would lack 1.2 GB if all merged pages were written: no more": "reserve",
    "34 MB of new memory": "new_memory",
    "34 MB of new memory, and more comes": "new_memory",
    "34 MB of new memory meanwhile, at the pace of its budget": "progress",
    "12.0 MB have changed and stand still": "changed_memory",
    "12.0 MB are changing": "changing_memory",
    "12.0 MB go on changing": "changing_memory",
    "nothing has changed": "nothing_new",
    "nothing new": "nothing_new",
    "5.1 MB were left": "left_memory",
    "time for a sample": "sample",
    "5.1 MB to save in about 2.1 s of processor time": "worth",
    "5.1 MB to save in about 2.1 s of processor time, at the pace of its budget": "worth",
    "5.1 MB to save in about 2.1 s of processor time: not worth it": "not_worth",
    "3.2 MB to go": "progress",
    "3.2 MB to go, at the pace of its budget": "progress",
    "9.9 MB are merged, 1.2 MB left": "progress",
    "it seems done": "check",
    "the last scan added 0 bytes for 1.0 s of processor time": "check",
    "saved 9.0 MB of 12.0 MB; 9.0 MB are merged now, and 3.0 MB left: not worth it": "done",
    "saved 9.0 MB, as promised; 9.0 MB are merged now": "done",
}


@pytest.mark.parametrize("reason", SAMPLES)
def test_a_reason_has_its_topic(reason: str) -> None:
    assert topic_of(reason) == SAMPLES[reason]
    assert words_of(SAMPLES[reason])


def test_samples_cover_all_topics() -> None:
    assert set(SAMPLES.values()) == set(TOPICS)


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.name)
def test_all_that_real_governors_gave_as_reasons_is_known(trace: Path) -> None:
    lines = gzip.decompress(trace.read_bytes()).splitlines()
    reasons = {msgspec.json.decode(line, type=Step).decision.reason for line in lines}
    assert reasons
    assert {it for it in reasons if topic_of(it) == OTHER} == set()


def test_all_that_the_governor_can_say_is_sampled() -> None:
    source = Path(module.__file__).read_text()
    said = re.findall(
        r'told = f?"([^"]+)"|_stand\(now, f?"([^"]+)"|_stop\(course, now, "([^"]+)"', source
    )
    assert len(said) > 12
    for parts in said:
        fixed = max(re.split(r"\{[^}]*\}", "".join(parts)), key=len)
        assert any(fixed in sample for sample in SAMPLES), fixed


def test_anything_else_is_other() -> None:
    assert topic_of("x" * 10_000) == topic_of("") == OTHER
    assert words_of(OTHER)
