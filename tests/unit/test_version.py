"""One version: Cargo.toml has it, and the package says the same."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pagemerge

ROOT = Path(__file__).parents[2]


def test_the_package_has_the_version_of_the_workspace() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert pagemerge.__version__ == cargo["workspace"]["package"]["version"]


def test_no_other_file_of_the_build_names_a_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project and "version" in project["dynamic"]
    for manifest in ROOT.glob("crates/*/Cargo.toml"):
        package = tomllib.loads(manifest.read_text())["package"]
        assert package["version"] == {"workspace": True}, manifest.parent.name
