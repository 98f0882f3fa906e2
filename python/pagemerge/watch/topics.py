"""Sorts the governor's decisions by topic, so that they can be counted.

A reason contains figures ("120 MB to save in about 2.1 s of processor time"), so nearly each one is
a text of its own. Its topic is one of a few.
"""

from __future__ import annotations

import re

TOPICS: dict[str, tuple[str, str]] = {
    "done": ("ksmd was done", r"^saved "),
    "reserve": ("the reserve could not have been kept", r"^the reserve would lack "),
    "no_process": (
        "no process had mergeable memory",
        r"^(no process|the last process) (has|with) mergeable memory",
    ),
    "not_worth": ("merging was not worth the processor time", r": not worth it$"),
    "worth": ("merging was worth the processor time", r" to save in about "),
    "progress": (
        "ksmd had more to merge",
        r" to go(, at|$)|meanwhile(, at|$)| are merged, .* left",
    ),
    "check": ("the governor looked whether ksmd was done", r"^it seems done|^the last scan added "),
    "new_memory": ("there was new memory", r" of new memory(, and more comes)?$"),
    "changed_memory": ("memory had changed and stood still", r" have changed and stand still$"),
    "changing_memory": ("memory went on changing", r" (are|go on) changing$"),
    "left_memory": ("the governor tried again what was left", r" were left$"),
    "sample": ("it was time for a sample", r"^time for a sample$"),
    "nothing_new": ("nothing was new", r"^nothing (new|has changed)$"),
}
"""Topic -> what it says in words, and a pattern for reasons; the first that fits counts."""

OTHER = "other"
"""The topic of all other reasons."""

_PATTERNS = [(topic, re.compile(pattern)) for topic, (_, pattern) in TOPICS.items()]


def topic_of(reason: str) -> str:
    """Return the topic of a decision's reason (``ksmd.decide.govern``)."""
    return next((topic for topic, pattern in _PATTERNS if pattern.search(reason)), OTHER)


def words_of(topic: str) -> str:
    """Say in words what a topic means."""
    return TOPICS[topic][0] if topic in TOPICS else "of something else"
