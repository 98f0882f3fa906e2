"""Keeps KubeVirt's label of a node right: may memory of its guests be merged?

KubeVirt's virt-handler sets ``kubevirt.io/ksm-enabled`` when it starts and when its configuration
changes, and knows of its own driver of ksmd only (pkg/virt-handler/ksm/ksm.go of KubeVirt). The
governor has ksmd stand most of the time, and what is merged stays so: the label has to say "true"
meanwhile.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from pagemerge.errors import PagemergeError
from pagemerge.kubernetes.api import Cluster
from pagemerge.linux.ksm import Ksm

LABEL = "kubevirt.io/ksm-enabled"


class _Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Node(msgspec.Struct):
    kind: str
    metadata: _Metadata


def merges(ksm: Ksm) -> bool:
    """Does ksmd run, does a governor drive it, or is something merged?"""
    return ksm.knobs().run == 1 or ksm.driver() is not None or bool(ksm.counters().pages_shared)


def label(cluster: Cluster, node: str, value: bool) -> bool:
    """Set the label of a node, if KubeVirt has given it one that differs; true if it was changed.

    Raises ``PagemergeError`` if the server refuses, or cannot be reached.
    """
    path, wanted = f"/api/v1/nodes/{quote(node, safe='')}", "true" if value else "false"
    try:
        found = msgspec.json.decode(cluster.get(path), type=_Node)
    except (ValueError, RecursionError):
        found = None
    if found is None or found.kind != "Node":
        raise PagemergeError("the API server answers with something that is no Node")
    if (found.metadata.labels or {}).get(LABEL) in (None, wanted):
        return False
    cluster.patch(path, msgspec.json.encode({"metadata": {"labels": {LABEL: wanted}}}))
    return True
