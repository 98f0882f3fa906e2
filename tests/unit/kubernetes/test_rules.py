"""Wishes of pods as rules: which cgroups they name, and that no text of a pod becomes a value."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.config import Configuration
from pagemerge.ksmd.decide.rules import fits
from pagemerge.kubernetes.pods import Pod
from pagemerge.kubernetes.rules import cgroups, configuration, opt, refusal
from pagemerge.linux.identity import Identity
from pagemerge.settings.check import check

UID = "0d5e8a4c-91c7-4f0e-9c1a-3b0f6a7d2e11"
WEB = Pod("shop", "web-0", UID, "Burstable", "true")


def of(qos: str) -> Pod:
    return Pod("shop", "web-0", UID, qos, "true")


@pytest.mark.parametrize(
    ("pod", "root", "names"),
    [
        (
            of("Guaranteed"),
            (),
            [
                "/kubepods.slice/kubepods-pod0d5e8a4c_91c7_4f0e_9c1a_3b0f6a7d2e11.slice/*",
                f"/kubepods/pod{UID}/*",
            ],
        ),
        (
            of("Burstable"),
            (),
            [
                "/kubepods.slice/kubepods-burstable.slice/"
                "kubepods-burstable-pod0d5e8a4c_91c7_4f0e_9c1a_3b0f6a7d2e11.slice/*",
                f"/kubepods/burstable/pod{UID}/*",
            ],
        ),
        (
            of("BestEffort"),
            ("kubelet",),
            [
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
                "kubelet-kubepods-besteffort-pod0d5e8a4c_91c7_4f0e_9c1a_3b0f6a7d2e11.slice/*",
                f"/kubelet/kubepods/besteffort/pod{UID}/*",
            ],
        ),
    ],
)
def test_the_cgroups_of_a_pod(pod: Pod, root: tuple[str, ...], names: list[str]) -> None:
    assert cgroups(pod, root) == names


def test_a_pod_whose_quality_of_service_is_not_known_may_be_anywhere() -> None:
    found = cgroups(of("Better"))
    assert found == [
        it for kind in ("Guaranteed", "Burstable", "BestEffort") for it in cgroups(of(kind))
    ]


@pytest.mark.parametrize(
    ("wish", "namespaces", "decided"),
    [
        ("true", frozenset({"shop"}), ("in", False)),
        ("select", frozenset({"shop"}), ("in", True)),
        ("true", frozenset({"other"}), None),
        ("select", frozenset[str](), None),
        ("true", None, ("in", False)),
        ("false", frozenset[str](), ("out", False)),
        ("True", None, None),
        ("", None, None),
        ('true"\n[kernel]\nacross_users = true', None, None),
    ],
)
def test_what_a_pod_gets(
    wish: str, namespaces: frozenset[str] | None, decided: tuple[str, bool] | None
) -> None:
    pod = Pod("shop", "web-0", UID, "Burstable", wish)
    assert opt(pod, namespaces) == decided
    why = refusal(pod, namespaces)
    assert bool(why) == (decided is None) and why.isprintable()


BASE = '[kernel]\ncpu_percent = 7\n\n[[rule]]\nguest = "vault"\nopt = "out"'


@given(
    st.lists(
        st.builds(
            Pod,
            st.text(),
            st.text(),
            st.uuids().map(str),
            st.sampled_from(["Guaranteed", "Burstable", "BestEffort"]) | st.text(),
            st.sampled_from(["true", "false", "select"]) | st.text(),
        )
    )
)
def test_any_pods_make_a_right_configuration(pods: list[Pod]) -> None:
    checked = check(configuration(BASE, pods, None).encode(), Configuration)
    assert checked.value is not None, checked.problems
    assert checked.value.kernel.cpu_percent == 7
    first, *rest = checked.value.rules
    assert (first.guest, first.opt) == ("vault", "out")
    wanted = [(it, opt(it, None)) for it in pods if opt(it, None)]
    assert [(it.cgroup, it.opt) for it in rest] == [
        (name, said[0]) for pod, said in wanted if said for name in cgroups(pod)
    ]


def process(cgroup: str) -> Identity:
    return Identity(7, 1, 0, "root", "x", "x", cgroup, "", "")


def test_a_container_cannot_name_a_cgroup_after_another_pod() -> None:
    rules = check(configuration("", [WEB], None).encode(), Configuration).value
    assert rules
    inside = [it.removesuffix("*") + "cri-containerd-0123.scope" for it in cgroups(WEB)]
    other = Pod("evil", "x", str(uuid.uuid4()), "Burstable", "true")
    forged = [
        f"{it.removesuffix('/*')}/crio-1.scope{one}" for it in cgroups(other) for one in inside
    ]
    for path, expected in [(it, True) for it in inside] + [(it, False) for it in forged]:
        assert any(fits(process(path), rule) for rule in rules.rules) is expected, path
