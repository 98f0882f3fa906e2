"""Settings: errors name the file, the key and what it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.config import Settings, load, with_cpu
from pagemerge.errors import UsageError


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
        ("looks =\n", "line 1"),
    ],
)
def test_errors_name_the_cause(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "pagemerge.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        load(path)
    assert str(path) in str(raised.value)
    assert named in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path / "none.toml")


def test_a_budget_of_the_command_line_comes_first() -> None:
    assert with_cpu(Settings(cpu_percent=70), 12.5).cpu_percent == 12.5
    assert with_cpu(Settings(cpu_percent=70), None).cpu_percent == 70
    for bad in (0.0, -1.0, 100.1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"--cpu .*: .* above 0 and up to 100"):
            with_cpu(Settings(), bad)
