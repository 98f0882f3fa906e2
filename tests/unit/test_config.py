"""Settings: errors name the file, the key and what it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.config import load, load_kernel, load_rules, with_cpu
from pagemerge.errors import UsageError
from pagemerge.hub.settings import Settings
from pagemerge.ksmd.decide.rules import Rule
from pagemerge.ksmd.model import Goals
from pagemerge.ksmd.settings import KernelSettings


def test_defaults_and_a_file(tmp_path: Path) -> None:
    assert load(None) == Settings()
    path = tmp_path / "pagemerge.toml"
    path.write_text("[hub]\nlooks = 1\ncpu_percent = 12.5\n")
    assert load(path) == Settings(looks=1, cpu_percent=12.5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[hub]\nlooks = 0\n", "hub.looks"),
        ("[hub]\nlook = 2\n", "look"),
        ("[hub]\ncpu_percent = 'all'\n", "hub.cpu_percent"),
        ("[hubb]\n", "hubb"),
        ("looks =\n", ":1: this is not TOML"),
        ("[hub]\nlook = 2\n", "the nearest is looks"),
        ("[kernel]\nacross_users = 'yes'\n", "kernel.across_users"),
        ("[kernel]\nxyz = true\n", "known are across_users"),
        ("[rule]\nopt = 'in'\n", "write [[rule]]"),
        ("[[rule]]\nopt = 'in'\n", 'for every process write command = "*"'),
        ("[[rule]]\nopt = 'in'\nuser = ''\n", "rule 1.user"),
        ("[[rule]]\nopt = 'in'\nuser = 0\n[[rule]]\nopt = 'no'\nuser = 1\n", "rule 2.opt"),
        ("[[rule]]\nuser = 'web'\n", 'rule 1.opt: the key is missing: give text, "in" or "out"'),
        ("[[rule]]\nopt = 'maybe'\n", '"maybe" is not allowed: give text, "in" or "out"'),
        ("[[rule]]\nopt = 'in'\nunits = '*'\n", "the nearest is unit"),
        ("[[rule]]\nopt = 'out'\nuser = 'x'\nselect = true\n", "select"),
    ],
)
def test_errors_name_the_cause(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "pagemerge.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        load(path)
    assert str(path) in str(raised.value)
    assert named in str(raised.value)


def test_an_error_of_several_says_how_to_see_the_others(tmp_path: Path) -> None:
    path = tmp_path / "pagemerge.toml"
    path.write_text("[hub]\nlooks = 0\nleast_run = 0\n")
    with pytest.raises(UsageError, match=r"toml:2: hub.looks.*and 1 more: `pagemerge config check"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "none.toml")


def test_a_budget_of_the_command_line_comes_first() -> None:
    assert with_cpu(Settings(cpu_percent=70), 12.5).cpu_percent == 12.5
    assert with_cpu(Settings(cpu_percent=70), None).cpu_percent == 70
    for bad in (0.0, -1.0, 100.1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"--cpu .*: .* above 0 and up to 100"):
            with_cpu(Settings(), bad)


def test_the_kernel_and_the_rules_beside_the_hub(tmp_path: Path) -> None:
    path = tmp_path / "pagemerge.toml"
    path.write_text(
        "[hub]\nlooks = 1\n[kernel]\nacross_users = true\n"
        "[[rule]]\nopt = 'in'\nguest = 'web-*'\nselect = true\n"
        "[[rule]]\nopt = 'out'\nuser = 0\n"
    )
    assert load(path) == Settings(looks=1)
    assert load_kernel(path) == KernelSettings(across_users=True)
    assert load_rules(path) == (Rule("in", guest="web-*", select=True), Rule("out", user="0"))
    assert (load_kernel(None), load_rules(None)) == (KernelSettings(), ())


def test_goals_of_the_governor_are_as_the_file_says(tmp_path: Path) -> None:
    assert load_kernel(None).goals() == Goals()
    path = tmp_path / "pagemerge.toml"
    path.write_text(
        "[kernel]\ncpu_percent = 5\nburst_seconds = 2\nprice_bytes = 1_000\n"
        "pressure_percent = 50\navailable_percent = 1\nreserve_bytes = 7\n"
        "merge_across_nodes = false\n"
    )
    assert load_kernel(path).goals() == Goals(5, 2, 1000, 50, 1, 7, 0, 0)
    assert with_cpu(load_kernel(path), 7).cpu_percent == 7
