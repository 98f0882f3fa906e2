"""Messages: what is a call, and what is not."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.service.api.wire import Malformed, decoded, encoded, failure, reply


def test_a_call_is_read_with_its_flags() -> None:
    text = b'{"method":"a.b.C","parameters":{"x":1},"more":true,"oneway":null,"com.example":{}}'
    call = decoded(text)
    assert (call.method, bytes(call.parameters)) == ("a.b.C", b'{"x":1}')
    assert (call.more, call.oneway, call.upgrade) == (True, None, None)
    assert bytes(decoded(b'{"method":"a.B"}').parameters) == b"{}"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1e999",
        b'{"method":1}',
        b'{"method":"a","more":1}',
        b'{"method":"a","oneway":"yes"}',
        b'{"parameters":{}}',
        b'{"method":"\\ud800"}',
        b'{"method":"\xff"}',
        b'{"method":"a","parameters":' + b"[" * 60000,
        b'{"method":"a","parameters":' + b'{"a":' * 12000,
        b'{"method":"a","parameters":' + b"9" * 60000 + b"x}",
        b'{"method":"a"}}',
    ],
)
def test_what_is_no_call_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(Malformed, match="no varlink call"):
        decoded(text)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_call_or_not(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        decoded(data)


@given(st.recursive(st.text() | st.integers(-(2**63), 2**63), lambda it: st.lists(it, max_size=3)))
def test_a_reply_is_one_message_whatever_it_holds(value: object) -> None:
    message = reply(encoded({"value": value}), continues=True)
    assert message.count(b"\0") == 1 and message.endswith(b"\0")
    found = json.loads(message[:-1])
    assert found["continues"] is True
    assert found["parameters"]["value"] == json.loads(encoded(value))


def test_lone_surrogates_are_escaped_and_all_else_is_kept() -> None:
    assert json.loads(encoded(["\udcff", {"\ud800": "a\0\x1b\u2028"}])) == [
        "\\xff",
        {"\\ud800": "a\0\x1b\u2028"},
    ]


def test_an_error_has_its_name_and_parameters() -> None:
    message = failure("org.pagemerge.Busy", encoded({"message": "later"}))
    assert json.loads(message[:-1]) == {
        "error": "org.pagemerge.Busy",
        "parameters": {"message": "later"},
    }
