"""The pods of one node, and what they ask for; read from lists of the API server.

Whoever may create pods in a namespace chooses names and annotations there. The server chooses uids.
Source: ``PodList`` and ``Pod`` of the Kubernetes API reference (core/v1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode

import msgspec

from pagemerge.errors import PagemergeError
from pagemerge.kubernetes.api import Refused

ANNOTATION = "pagemerge.io/merge"
"""``true`` | ``select`` (only duplicated memory is marked) | ``false``."""

MOST_PAGES = 1000
"""Pages of one list: more than any node has."""
_PAGE = 500
_GONE = 410
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Server(Protocol):
    """What ``api.Cluster`` does here."""

    def get(self, path: str) -> bytes:
        """Get a resource."""


@dataclass(frozen=True, slots=True, order=True)
class Pod:
    """A pod of this node that asks for something."""

    namespace: str
    name: str
    uid: str
    """In the form of RFC 4122: 36 hexadecimal digits and dashes."""
    qos: str
    """Guaranteed | Burstable | BestEffort; anything else if the server has not decided."""
    wish: str
    """The annotation, as it is written."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What a complete list says."""

    pods: tuple[Pod, ...]
    """Those that have the annotation, sorted."""
    unreadable: int = 0
    """Entries that are no pods of this API, or lack a uid."""


class _Metadata(msgspec.Struct):
    uid: str
    name: str = ""
    namespace: str = ""
    annotations: dict[str, str] | None = None


class _Spec(msgspec.Struct):
    nodeName: str = ""


class _Status(msgspec.Struct):
    qosClass: str = ""


class _Item(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


class _About(msgspec.Struct):
    more: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    kind: str
    items: list[msgspec.Raw] | None = None
    metadata: _About = msgspec.field(default_factory=_About)


def listed(server: Server, node: str) -> Listed:
    """List the pods of ``node``, all pages of the list.

    If a page has expired meanwhile (410), starts again once. Raises ``PagemergeError`` if the
    server does not give a complete list: part of one is never returned.
    """
    try:
        return _all_pages(server, node)
    except Refused as error:
        if error.status != _GONE:
            raise
    return _all_pages(server, node)


def _all_pages(server: Server, node: str) -> Listed:
    pods: set[Pod] = set()
    unreadable, more = 0, ""
    for _ in range(MOST_PAGES):
        asked = {"fieldSelector": f"spec.nodeName={node}", "limit": str(_PAGE)}
        if more:
            asked["continue"] = more
        page = _page(server.get(f"/api/v1/pods?{urlencode(asked)}"))
        for raw in page.items or ():
            found = _item(raw)
            if found is None:
                unreadable += 1
            elif found.spec.nodeName == node and (pod := _pod(found)):
                pods.add(pod)
        more = page.metadata.more
        if not more:
            return Listed(tuple(sorted(pods)), unreadable)
    raise PagemergeError(f"the API server has not ended its list of pods after {MOST_PAGES} pages")


def _page(data: bytes) -> _Page:
    try:
        found = msgspec.json.decode(data, type=_Page)
    except (ValueError, RecursionError):
        found = None
    if found is None or found.kind != "PodList":
        raise PagemergeError("the API server answers with something that is no PodList")
    return found


def _item(raw: msgspec.Raw) -> _Item | None:
    try:
        found = msgspec.json.decode(raw, type=_Item)
    except (ValueError, RecursionError):
        return None
    return found if _UID.fullmatch(found.metadata.uid) else None


def _pod(found: _Item) -> Pod | None:
    wish = (found.metadata.annotations or {}).get(ANNOTATION)
    if wish is None:
        return None
    about = found.metadata
    return Pod(about.namespace, about.name, about.uid, found.status.qosClass, wish)
