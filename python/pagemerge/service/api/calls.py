"""The calls: their parameters, replies and errors.

Parameters are checked against these types, and ``interface`` describes them to callers. A parameter
that may be left out may also be null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pagemerge.ksmd.attach import Outcome
from pagemerge.watch.model import Decision, Moment, Row

Engine = Literal["user", "kernel"]
Group = Literal["process", "guest", "container", "unit", "user", "domain"]
"""As ``pagemerge scan --group-by``."""
ENUMS = {"Engine": Engine, "Group": Group}
"""Name in the interface -> the words that it allows."""

Words = Annotated[list[Annotated[str, Meta(min_length=1, max_length=4096)]], Meta(max_length=1000)]


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of a call; this one has none."""


class Reply(msgspec.Struct):
    """The reply to a call; this one says nothing."""


class StatusReply(Reply):
    moment: Moment


class ClientsParameters(Parameters):
    engine: Engine | None = None
    """Leave out all rows of the other engine."""


class RowsReply(Reply):
    rows: list[Row]


class HistoryParameters(Parameters):
    seconds: Annotated[float, Meta(gt=0, le=366 * 86400)] | None = None
    """How far to look back, at most 366 days; an hour if left out."""
    most: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """The most moments to send, up to 10,000: of more, the latest ones. 1,000 if left out."""


class HistoryReply(Reply):
    moment: Moment | None
    """Null if there is none in this time."""


class DecisionsReply(Reply):
    decisions: list[Decision]
    """The last ones, 256 at most, oldest first."""


class AttachParameters(Parameters):
    processes: Words
    """Pids, or names of processes or programs."""
    select: bool | None = None
    """Mark only ranges that hold duplicates."""
    across_users: bool | None = None
    """Merge memory of different users with each other."""
    dry_run: bool | None = None
    """Do nothing, and tell what would be done."""


class DetachParameters(Parameters):
    processes: Words
    """Pids, or names of processes or programs."""
    dry_run: bool | None = None
    """Do nothing, and tell what would be done."""


class Marked(msgspec.Struct, frozen=True):
    """One process that was to be attached or detached, and what was done."""

    pid: int
    name: str
    uid: int
    eligible_bytes: int
    """Memory of it that can be merged."""
    error: str | None = None
    """Why nothing was done."""
    remark: str | None = None
    merged_bytes: int | None = None
    """Bytes that ksmd has merged; only for a dry run of Detach."""
    outcome: Outcome | None = None
    """Null if nothing was done."""


class MarkedReply(Reply):
    processes: list[Marked]


class ChangedReply(Reply):
    changed: bool
    """False if it was so already."""


class ScanParameters(Parameters):
    processes: Words | None = None
    """Pids, or names of processes or programs."""
    all: bool | None = None
    """Look at all processes."""
    what: bool | None = None
    """Say what the duplicated pages are."""
    group_by: Group | None = None
    """Say who shares with whom."""
    why: bool | None = None
    """Say why memory does not merge."""
    compress: bool | None = None
    """Compare merging with compression."""
    fit: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    """A process: say how many more like it fit."""
    watch_seconds: Annotated[float, Meta(ge=0.1, le=3600)] | None = None
    """Look several times, and say which duplicates last."""
    top: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """The most processes to list."""


class ScanReply(Reply):
    done_pages: int
    total_pages: int
    result: msgspec.Raw | None = None
    """What `pagemerge scan --json` prints; null while the scan goes on."""


class SubscribeParameters(Parameters):
    interval_seconds: Annotated[float, Meta(ge=0.5, le=3600)] | None = None
    """Time from one reply to the next, 0.5 seconds to an hour; 2 seconds if left out."""
    count: Annotated[int, Meta(ge=1)] | None = None
    """The number of replies; without end if left out."""


class InfoReply(Reply):
    vendor: str
    product: str
    version: str
    url: str
    interfaces: list[str]


class DescriptionParameters(Parameters):
    interface: Annotated[str, Meta(max_length=4096)]


class DescriptionReply(Reply):
    description: str


@dataclass(frozen=True, slots=True)
class Method:
    """One method of an interface."""

    about: str
    parameters: type[Parameters]
    reply: type[Reply]
    needs_more: bool = False
    """Every call has to say ``more``."""


SERVICE, OURS = "org.varlink.service", "org.pagemerge"

_OWNER = "Root and the owner of the service only."

METHODS: dict[str, dict[str, Method]] = {
    SERVICE: {
        "GetInfo": Method("Tell which service this is.", Parameters, InfoReply),
        "GetInterfaceDescription": Method(
            "Describe an interface of this service.", DescriptionParameters, DescriptionReply
        ),
    },
    OURS: {
        "Status": Method(
            "Tell the figures of now. Its decisions are the last ten.", Parameters, StatusReply
        ),
        "Clients": Method(
            "List the processes with mergeable memory, of both engines or of one.",
            ClientsParameters,
            RowsReply,
        ),
        "Guests": Method("List the QEMU guests among these processes.", Parameters, RowsReply),
        "History": Method(
            "Tell the figures of the past, one moment a reply, oldest first. Call it with more.",
            HistoryParameters,
            HistoryReply,
            needs_more=True,
        ),
        "Decisions": Method(
            f"List decisions of the governor of ksmd. {_OWNER}", Parameters, DecisionsReply
        ),
        "Attach": Method(
            f"Let ksmd merge the memory of running processes. {_OWNER}",
            AttachParameters,
            MarkedReply,
        ),
        "Detach": Method(
            f"Separate what ksmd has merged in processes, and opt them out. {_OWNER}",
            DetachParameters,
            MarkedReply,
        ),
        "Pause": Method(
            f"Have ksmd merge nothing more. What is merged stays merged. {_OWNER}",
            Parameters,
            ChangedReply,
        ),
        "Resume": Method(f"Undo Pause. {_OWNER}", Parameters, ChangedReply),
        "Scan": Method(
            "Tell what merging would save, with the rights of the caller. Called with more, it "
            "tells its progress: result is null in all replies but the last.",
            ScanParameters,
            ScanReply,
        ),
        "Subscribe": Method(
            "Tell the figures again and again. The decisions of a reply are those since the "
            "reply before. Call it with more.",
            SubscribeParameters,
            StatusReply,
            needs_more=True,
        ),
    },
}
"""Interface -> its methods by name."""

ERRORS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    SERVICE: {
        "InterfaceNotFound": ("The service has no such interface.", ("interface",)),
        "MethodNotFound": ("The interface has no such method.", ("method",)),
        "MethodNotImplemented": ("The service does not implement this.", ("method",)),
        "InvalidParameter": ("A parameter is unknown, missing or wrong.", ("parameter",)),
        "PermissionDenied": ("The caller may not do this.", ()),
        "ExpectedMore": ("The call has to say more.", ()),
    },
    OURS: {
        "NotAllowed": ("The caller, or this service, may not do this.", ("message",)),
        "NoHistory": ("The service keeps no history.", ("message",)),
        "NoSuchProcess": ("There is no such process.", ("message",)),
        "Unsupported": ("This host cannot do this.", ("message",)),
        "WrongUsage": ("These parameters do not go together.", ("message",)),
        "Busy": ("There are too many of these at once: try later.", ("message",)),
        "NotACall": ("The message was no call; the connection is closed.", ("message",)),
        "Failed": ("It did not work.", ("message",)),
    },
}
"""Interface -> its errors by name: what each means, and its parameters, all strings."""
