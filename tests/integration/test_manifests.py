"""The manifests of deploy/kubernetes: right by the schemas of Kubernetes, and with few rights."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pagemerge import cli
from pagemerge.config import read
from tests.conftest import missing

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = [it for it in sorted(FOLDER.rglob("*.yaml")) if it.name != "kustomization.yaml"]
VERSIONS = ("1.31", "1.37")
"""The oldest Kubernetes that knows all fields, and the newest whose schemas there are."""


def documents(text: str) -> list[dict[str, Any]]:
    return [it for it in yaml.safe_load_all(text) if it]


def daemon_set() -> dict[str, Any]:
    [found] = documents((FOLDER / "base" / "daemonset.yaml").read_text())
    return found


def test_all_files_are_there() -> None:
    assert {it.name for it in FILES} == {"daemonset.yaml", "rights.yaml"} and len(FILES) == 3


@pytest.mark.parametrize("path", FILES, ids=lambda it: f"{it.parent.name}/{it.name}")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_schema_allows_it(path: Path, version: str) -> None:
    for document in documents(path.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_field_is_found() -> None:
    wrong = daemon_set()
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", ["base", "kubevirt"])
def test_kubectl_builds_it(name: str) -> None:
    if not shutil.which("kubectl"):
        missing("kubectl", "it is not installed")
    argv = ["kubectl", "kustomize", str(FOLDER / name)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = documents(done.stdout)
    for document in found:
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)
        assert document["metadata"].get("namespace", "pagemerge") == "pagemerge"
    [its] = [it for it in found if it["kind"] == "DaemonSet"]
    pods = its["spec"]["template"]["spec"]["containers"][1]
    assert ("--kubevirt" in pods["args"]) == (name == "kubevirt")
    _parse([*pods["command"], *pods["args"]])
    roles = {it["metadata"]["name"]: it["rules"] for it in found if it["kind"] == "ClusterRole"}
    rights = {"pagemerge-pods": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]}
    if name == "kubevirt":
        label = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}
        rights["pagemerge-node-label"] = [label]
    assert roles == rights


def test_the_configuration_is_right() -> None:
    assert read(FOLDER / "base" / "pagemerge.toml").rules == ()


def test_each_container_has_only_what_it_needs() -> None:
    pod = daemon_set()["spec"]["template"]["spec"]
    assert pod["hostPID"] and pod["automountServiceAccountToken"] is False
    assert "hostNetwork" not in pod and "hostIPC" not in pod
    governor, pods = pod["containers"]
    for container in (governor, pods, *pod["initContainers"]):
        _parse([*container["command"], *container["args"]])
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and not context.get("privileged")
        assert context["capabilities"]["drop"] == ["ALL"]
        is_governor = container is governor
        added = ["SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN"] if is_governor else None
        assert context["capabilities"].get("add") == added
        assert context["runAsUser"] == (0 if is_governor else 65532)
        mounted = {it["name"] for it in container["volumeMounts"]}
        assert mounted == ({"rules", "ksm", "run"} if is_governor else {"rules", "config", "token"})
    known = {it["name"] for it in pod["volumes"]}
    assert known == {"rules", "config", "token", "ksm", "run"}


def _parse(words: list[str]) -> None:
    """Have the verb's own parser read a command line."""
    name, verb, *rest = words
    assert name == "pagemerge"
    rest = [re.sub(r"\$\(NODE\)", "node-1", it) for it in rest]
    cli.parser(verb).parse_args(rest)
