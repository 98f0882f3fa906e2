"""The configurations that the pages for hosts show are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pagemerge.config import Configuration
from pagemerge.ksmd.decide.rules import Rule
from pagemerge.kubernetes.pods import Pod
from pagemerge.kubernetes.rules import cgroups
from pagemerge.settings.check import check

DOCS = Path(__file__).parents[2] / "docs"


def shown(name: str) -> list[Configuration]:
    """The configurations that a page shows."""
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / name).read_text(), re.S)
    found = []
    for block in blocks:
        checked = check(re.sub(r"^   ", "", block, flags=re.M).encode(), Configuration)
        assert checked.value is not None, checked.problems
        found.append(checked.value)
    return found


@pytest.mark.parametrize("name", ["libvirt.md", "proxmox.md", "containers.md", "kubernetes.md"])
def test_what_the_page_shows_is_right(name: str) -> None:
    assert shown(name)


def test_the_rules_of_the_pod_are_what_is_written() -> None:
    [found] = shown("kubernetes.md")
    pod = Pod("shop", "web", "0d5e8a4c-91c7-4f0e-9c1a-3b0f6a7d2e11", "Burstable", "true")
    assert list(found.rules) == [Rule("in", cgroup=it) for it in cgroups(pod)]


def test_every_place_of_a_container_is_a_pattern_of_the_whole_path() -> None:
    table = re.findall(r"^\| [^|]+ \| `(/[^`]+)` \|$", (DOCS / "containers.md").read_text(), re.M)
    assert len(table) == 5 and all(it.startswith("/") and it.endswith("*") for it in table)
