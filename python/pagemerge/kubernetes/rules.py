"""Writes the wishes of pods as rules of the governor; pure functions.

The kubelet makes one cgroup for each pod, below the cgroup of its quality of service. Its name has
the pod's uid, which no other pod gets. With the cgroup driver ``systemd`` all levels are slices,
and a ``-`` in a name is written ``_``; with ``cgroupfs`` they are folders. Source:
pkg/kubelet/cm/cgroup_manager_linux.go and pod_container_manager_linux.go of Kubernetes.

The patterns name the whole path from the root, so that no container can make a cgroup for itself
that fits the rule of another pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pagemerge.kubernetes.pods import Pod
from pagemerge.linux.text import plain

_KINDS = {"Guaranteed": (), "Burstable": ("burstable",), "BestEffort": ("besteffort",)}
"""Quality of service -> the levels below ``kubepods``."""

_MOST_SHOWN = 120

BEGINS = "# pagemerge pods wrote the rules from here on. It writes this file again: do not edit it."


def cgroups(pod: Pod, root: Sequence[str] = ()) -> list[str]:
    """List patterns for the cgroups of a pod's containers, one for each driver of the kubelet.

    ``root``: the parts of the kubelet's ``--cgroup-root``.
    """
    kinds = [_KINDS[pod.qos]] if pod.qos in _KINDS else list(_KINDS.values())
    return [
        f"/{'/'.join(names)}/*"
        for kind in kinds
        for levels in ((*root, "kubepods", *kind, f"pod{pod.uid}"),)
        for names in (_slices(levels), levels)
    ]


def _slices(levels: Sequence[str]) -> list[str]:
    """Return the names that the driver ``systemd`` gives: each has those above it in front."""
    escaped = [level.replace("-", "_") for level in levels]
    return [f"{'-'.join(escaped[: at + 1])}.slice" for at in range(len(escaped))]


def opt(pod: Pod, namespaces: frozenset[str] | None) -> tuple[str, bool] | None:
    """Decide what a pod gets: in or out, and whether only ranges are marked; None: no rule.

    ``namespaces``: those whose pods may opt in; None: all. Every pod may opt out.
    """
    if pod.wish == "false":
        return "out", False
    if pod.wish not in ("true", "select"):
        return None
    allowed = namespaces is None or pod.namespace in namespaces
    return ("in", pod.wish == "select") if allowed else None


def refusal(pod: Pod, namespaces: frozenset[str] | None) -> str:
    """Say why a pod gets no rule; empty if it gets one."""
    if opt(pod, namespaces) is not None:
        return ""
    if pod.wish in ("true", "select"):
        return "pods of its namespace may not opt in: --namespace allows that"
    return f'the annotation says "{plain(pod.wish, 40)}": it has to be true, select or false'


def configuration(
    base: str,
    pods: Iterable[Pod],
    namespaces: frozenset[str] | None,
    root: Sequence[str] = (),
) -> str:
    """Return the text of a configuration: ``base``, and the rules of pods behind it."""
    parts = [f"{base.rstrip()}\n" if base.strip() else "", f"{BEGINS}\n"]
    for pod in pods:
        if (decided := opt(pod, namespaces)) is None:
            continue
        what, select = decided
        # A name is a comment only: no text of a pod becomes a value.
        parts.append(f"\n# {plain(f'{pod.namespace}/{pod.name}', _MOST_SHOWN)}\n")
        for cgroup in cgroups(pod, root):
            parts.append(f'[[rule]]\ncgroup = "{cgroup}"\nopt = "{what}"\n')
            if select:
                parts.append("select = true\n")
    return "".join(parts)
