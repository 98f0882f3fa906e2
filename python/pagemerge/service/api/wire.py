"""The form of messages: JSON objects, each ended by a NUL (https://varlink.org/Method-Call).

A caller sends a ``Call``. It gets one reply, or several if the call says ``more``: all but the
last say ``continues``. A ``oneway`` call gets none.
"""

from __future__ import annotations

import msgspec

from pagemerge.linux.text import plain, representable

MOST_CALL = 1 << 16
"""The most bytes of a call."""
MOST_REPLY = 32 << 20
"""The most bytes of a reply."""

Flag = bool | None


class Call(msgspec.Struct, frozen=True):
    """A call; members of other names are extensions, and are ignored."""

    method: str
    """The name of an interface, a dot, and the name of a method."""
    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    oneway: Flag = None
    """True if the caller wants no reply."""
    more: Flag = None
    """True if the caller accepts more than one reply."""
    upgrade: Flag = None
    """True if the caller wants to go on in another protocol."""


class Malformed(Exception):
    """A message is no call: the rest of what its sender sends means nothing, either."""


_calls = msgspec.json.Decoder(Call)


def decoded(message: bytes) -> Call:
    """Decode a message without its NUL. Raises ``Malformed``."""
    try:
        return _calls.decode(message)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Malformed(f"this is no varlink call: {plain(str(error), 200)}") from None


def reply(parameters: bytes, continues: bool = False) -> bytes:
    """Return the message of a reply. ``parameters``: a JSON object."""
    return b'{"parameters":%b%b}\0' % (parameters, b',"continues":true' if continues else b"")


def failure(name: str, parameters: bytes) -> bytes:
    """Return the message of an error. ``parameters``: a JSON object."""
    return b'{"error":%b,"parameters":%b}\0' % (encoded(name), parameters)


def encoded(value: object) -> bytes:
    """Encode ``value`` as JSON. Bytes in a name that are not UTF-8 become ``\\xff``."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(representable(msgspec.to_builtins(value)))
