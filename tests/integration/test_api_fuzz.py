"""Hostile input to the API: it ends its own connection or gets an error, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagemerge.service.api.calls import ERRORS, METHODS, OURS, SERVICE
from tests.support.api import Api, recorded

BOUND = 10.0
EXAMPLES = int(os.environ.get("PAGEMERGE_API_EXAMPLES", "150"))
KNOWN = {f"{interface}.{name}" for interface, names in ERRORS.items() for name in names}
SAFE = [f"{OURS}.{it}" for it in METHODS[OURS] if it not in ("Attach", "Detach", "Pause", "Resume")]
SAFE += [f"{SERVICE}.{it}" for it in METHODS[SERVICE]]
FIELDS = ["engine", "seconds", "most", "processes", "all", "interval_seconds", "count", "interface"]
"""Names of parameters; those that start long work, as a scan of all, are given wrong values."""

text = st.text(max_size=30) | st.sampled_from(["\0", "\ud7ff", "\u2028", "\x1b[31m", "9" * 400])
numbers = st.integers() | st.floats() | st.sampled_from([2**63, -(2**64), 1e308, 10**300])
leaves = st.none() | st.booleans() | numbers | text
values = st.recursive(
    leaves, lambda it: st.lists(it, max_size=4) | st.dictionaries(text, it, max_size=4)
)
wrong = values.filter(lambda it: it is not True and it not in ([], {}))
calls = st.fixed_dictionaries(
    {"method": st.sampled_from(SAFE) | text},
    optional={
        "parameters": st.dictionaries(st.sampled_from(FIELDS) | text, wrong, max_size=3) | values,
        "more": st.booleans() | values,
        "oneway": st.booleans(),
        "upgrade": st.booleans(),
        "org.example.extension": values,
    },
)
pieces = st.one_of(
    st.binary(max_size=200),
    calls.map(lambda it: json.dumps(it).encode()),
    calls.map(lambda it: json.dumps(it).encode() + b"\0"),
    values.map(lambda it: json.dumps(it).encode() + b"\0"),
    st.integers(0, 30000).map(lambda it: b"[" * it + b"\0"),
    st.integers(0, 12000).map(lambda it: b'{"method":"a","parameters":' + b'{"a":' * it + b"\0"),
    st.sampled_from([b"\0", b"\0\0\0", b"{}\0", b"null\0", b'{"method":null}\0', b"\xff\xfe\0"]),
    st.integers(60000, 70000).map(lambda it: b" " * it),
)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with (
        tempfile.TemporaryDirectory(prefix="pagemerge-test-") as made,
        Api(Path(made) / "api.sock", moment=recorded(), history=20) as running,
    ):
        yield running
        running.assert_sound()


def replies(peer: socket.socket, most: float) -> Iterator[Any]:
    """All whole replies until the service closes the connection, or for some time."""
    data, deadline = b"", time.monotonic() + most
    while (left := deadline - time.monotonic()) > 0:
        peer.settimeout(left)
        try:
            part = peer.recv(1 << 16)
        except (TimeoutError, ConnectionResetError):
            break
        if not part:
            break
        data += part
        *whole, data = data.split(b"\0")
        yield from (json.loads(it) for it in whole)


def bystander(api: Api) -> None:
    """Another caller is answered in time."""
    began = time.monotonic()
    (reply,) = api.ask("Guests")
    assert len(reply["parameters"]["rows"]) == 2
    assert time.monotonic() - began < BOUND


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(st.lists(pieces, max_size=6), st.booleans())
def test_any_bytes_harm_nobody(api: Api, sent: list[bytes], waits: bool) -> None:
    with api.connect() as peer:
        with contextlib.suppress(OSError):  # it may be closed already
            for piece in sent:
                peer.sendall(piece)
            peer.shutdown(socket.SHUT_WR)
        if waits:
            for reply in replies(peer, 0.3):
                assert set(reply) <= {"parameters", "error", "continues"}
                assert reply.get("error") is None or reply["error"] in KNOWN
        bystander(api)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(calls)
def test_any_call_gets_a_reply_or_an_error_that_is_described(api: Api, call: Any) -> None:
    with api.connect() as peer:
        sent = json.dumps(call).encode() + b"\0"
        if call.get("oneway") is True:
            sent += b'{"method":"org.varlink.service.GetInfo"}\0'
        peer.sendall(sent)
        reply = next(replies(peer, BOUND))
        assert set(reply) <= {"parameters", "error", "continues"}
        if "error" in reply:
            assert reply["error"] in KNOWN
            interface, _, name = reply["error"].rpartition(".")
            _, fields = ERRORS[interface][name]
            assert set(fields) <= set(reply["parameters"])
        else:
            assert call.get("oneway") is True or call["method"] in SAFE
    bystander(api)
