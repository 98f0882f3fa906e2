"""A wrong file changes nothing; a right one changes what can change while running."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pagemerge import config
from pagemerge.config import Configuration
from pagemerge.errors import UsageError
from pagemerge.service.reload import Reload

RIGHT = '[service]\nengines = ["user", "kernel"]\n[hub]\nlooks = 3\n'


@pytest.fixture
def path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    caplog.set_level(logging.INFO, "pagemerge.service")
    made = tmp_path / "pagemerge.toml"
    made.write_text(RIGHT)
    return made


def test_what_changes_is_applied_and_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    applied: list[Configuration] = []
    reload = Reload(path, config.read(path), applied.append)
    path.write_text(RIGHT.replace("3", "4") + "[kernel]\nmerge_across_nodes = true\n")
    assert reload()
    assert [it.hub.looks for it in applied] == [4]
    told = "[hub] looks = 4 (was 3); [kernel] merge_across_nodes = true (was unset)"
    assert told in caplog.messages[-1]
    assert reload()
    assert "nothing has changed" in caplog.messages[-1]


@pytest.mark.parametrize("text", ["[hub]\nlook = 3", "[hub]\nlooks = 99", "[hub", "\xff\x00"])
def test_a_wrong_file_leaves_the_old_one_in_force(
    path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    applied: list[Configuration] = []
    reload = Reload(path, config.read(path), applied.append)
    path.write_text(text)
    assert not reload()
    path.unlink()
    assert not reload()
    assert applied == []
    assert reload.now.hub.looks == 3
    for message in caplog.messages:
        assert "the old configuration stays in force" in message
        assert str(path) in message


def test_engines_cannot_change(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reload = Reload(path, config.read(path), lambda _: None)
    path.write_text("[hub]\nlooks = 5\n")
    for _ in range(2):
        caplog.clear()
        assert reload()
        assert "restart the daemon for [service] engines" in caplog.messages[0]
    assert reload.now.service.engines == ["user", "kernel"]
    assert reload.now.hub.looks == 5


def test_engines_are_checked(path: Path) -> None:
    for wrong in ("[]", '["user", "user"]', '["ksmd"]', '"user"'):
        path.write_text(f"[service]\nengines = {wrong}\n")
        with pytest.raises(UsageError, match="engine"):
            config.read(path)
    path.write_text("[service]\nengine = 1\n")
    with pytest.raises(UsageError, match="the nearest is engines"):
        config.read(path)
