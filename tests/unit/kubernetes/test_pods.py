"""Lists of pods: what is read, what is left out, and that part of a list is none."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.errors import PagemergeError
from pagemerge.kubernetes import pods
from pagemerge.kubernetes.api import Refused
from pagemerge.kubernetes.pods import Listed, Pod, listed
from tests.support.apiserver import NODE, pod

UIDS = [f"0d5e8a4c-91c7-4f0e-9c1a-{at:012x}" for at in range(9)]


class Scripted:
    """A server that gives these answers, one after the other."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def get(self, path: str) -> bytes:
        self.asked.append(path)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def page(items: Sequence[object], more: str = "") -> bytes:
    return json.dumps({"kind": "PodList", "metadata": {"continue": more}, "items": items}).encode()


def test_only_pods_of_this_node_with_the_annotation_count() -> None:
    elsewhere = pod("b", UIDS[1], "true")
    elsewhere["spec"]["nodeName"] = "node-2"
    server = Scripted(page([pod("c", UIDS[2]), elsewhere, pod("a", UIDS[0], "true")]))
    assert listed(server, NODE) == Listed((Pod("default", "a", UIDS[0], "Burstable", "true"),))
    assert server.asked == [f"/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}&limit=500"]


def test_what_is_no_pod_is_left_out_and_counted() -> None:
    bad: list[object] = [
        7,
        None,
        [],
        {},
        {"metadata": {"uid": 7}},
        pod("x", "../" + UIDS[0][3:], "true"),
    ]
    bad.append({"metadata": {"uid": UIDS[1], "annotations": {"pagemerge.io/merge": True}}})
    found = listed(Scripted(page([*bad, pod("a", UIDS[0], "true")])), NODE)
    assert [it.name for it in found.pods] == ["a"]
    assert found.unreadable == len(bad)


def test_a_list_that_expires_is_begun_again_once() -> None:
    gone = Refused("gone", 410)
    first, second = page([pod("a", UIDS[0], "true")], "x&y"), page([pod("b", UIDS[1], "true")])
    server = Scripted(first, gone, first, second)
    assert [it.name for it in listed(server, NODE).pods] == ["a", "b"]
    assert server.asked[1].endswith("&continue=x%26y")
    with pytest.raises(Refused):
        listed(Scripted(first, gone, first, gone), NODE)
    with pytest.raises(Refused):
        listed(Scripted(first, Refused("no", 403)), NODE)


def test_a_list_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "MOST_PAGES", 3)
    with pytest.raises(PagemergeError, match="after 3 pages"):
        listed(Scripted(*[page([], "more")] * 3), NODE)


@given(
    st.binary()
    | st.sampled_from(
        [b'{"kind":"Status"}', b"[" * 100_000, b'{"kind":"PodList","items":{}}', b"\xff", b"<html>"]
    )
)
def test_what_is_no_list_is_an_error(answer: bytes) -> None:
    with pytest.raises(PagemergeError, match="no PodList"):
        listed(Scripted(answer), NODE)


def test_a_list_without_items_is_empty() -> None:
    assert listed(Scripted(b'{"kind":"PodList","items":null}'), NODE) == Listed(())
