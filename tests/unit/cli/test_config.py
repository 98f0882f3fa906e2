"""``pagemerge config``: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagemerge import cli
from pagemerge.config import Configuration
from pagemerge.settings.schema import tables

RULES = (
    "[hub]\nlooks = 1\n\n[[rule]]\nopt = 'in'\nunit = 'vm-*'\n"
    "[[rule]]\nopt = 'in'\nunit = 'vm-1'\n[[rule]]\nopt = 'out'\nuser = 7\n"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.toml"
    path.write_text(RULES)
    return path


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [it for it in os.environ if it.startswith("PAGEMERGE_")]:
        monkeypatch.delenv(name)


def test_check_says_what_a_right_file_does(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "check", str(file)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{file} is right: engine")
    assert "the hub uses up to 50% of a core, ksmd and the governor up to 20%" in said.out
    assert said.out.endswith("; 3 rules (2 in, 1 out) for processes of one user\n")
    assert said.out.count("\n") == 1
    assert said.err == (
        f"{file}:7: warning: rule 2 has no effect: rule 1 (line 4) fits the same processes and "
        "comes first\n"
    )


def test_a_rule_of_processes_that_are_opted_out_is_warned_of(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("rule = [{opt = 'in', user = 7},\n{opt = 'out', user = 7}]")
    assert cli.main(["config", "check", str(file)]) == 0
    assert (
        f"{file}:1: warning: rule 1 has no effect: rule 2 (line 2) fits the same processes and "
        "opts them out\n"
    ) == capsys.readouterr().err


@pytest.mark.parametrize("action", ["check", "show"])
def test_all_errors_are_listed(action: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[hub]\nlooks = 0\n[kernel]\n\nprice_byte = 1\n")
    assert cli.main(["config", action, str(file)]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err == (
        f"{file}:2: hub.looks: 0 is not allowed: give an integer, 1 to 16\n"
        f"{file}:5: kernel.price_byte: there is no such key; the nearest is price_bytes\n"
    )


@given(data=st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_file_is_right_or_is_named_with_its_errors(
    data: bytes, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(data)
    status = cli.main(["config", "check", str(file)])
    said = capsys.readouterr()
    assert status == (2 if said.err else 0)
    assert all(line.startswith(f"{file}:") for line in said.err.splitlines())


def test_a_name_cannot_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "\x1b[2J\n.toml"
    path.write_text("'x' = 1\n\"\\u001b[2J\" = 1\n")
    assert cli.main(["config", "check", str(path)]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert said.count("\n") == 2


def test_a_pipe_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "p")
    for words in (["check"], ["show"], ["init", "--force"]):
        assert cli.main(["config", *words, str(tmp_path / "p")]) == 2
        assert "is a pipe: give a regular file" in capsys.readouterr().err


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    """``table.key`` (with the number of a rule) -> what ``show --json`` says of it."""
    assert cli.main(["config", "show", "--json", *words]) == 0
    rows = json.loads(capsys.readouterr().out)["settings"]
    return {f"{it['table']}{it['number'] or ''}.{it['key']}": it for it in rows}


def test_show_says_where_each_value_comes_from(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGEMERGE_SOCKET", "/x/hub")
    found = shown([str(file)], capsys)
    looks = found["hub.looks"]
    assert (looks["value"], looks["default"], looks["from"], looks["line"]) == (1, 2, "file", 2)
    assert looks["unit"] == "looks"
    assert found["hub.least_run"]["from"] == "default"
    assert found["rule3.user"]["value"] == 7
    assert (found["rule3.user"]["from"], found["rule3.user"]["line"]) == ("file", 12)
    assert found["rule3.unit"]["value"] is None
    socket = found["environment.PAGEMERGE_SOCKET"]
    assert (socket["value"], socket["from"], socket["name"]) == (
        "/x/hub",
        "environment",
        "PAGEMERGE_SOCKET",
    )
    found = shown([str(file), "--socket", "/y", "--cpu", "7"], capsys)
    socket = found["environment.PAGEMERGE_SOCKET"]
    assert (socket["value"], socket["from"], socket["name"]) == ("/y", "option", "--socket")
    for name in ("hub.cpu_percent", "kernel.cpu_percent"):
        assert (found[name]["value"], found[name]["name"]) == (7, "--cpu")
    assert cli.main(["config", "show", "--cpu", "101"]) == 2
    assert "--cpu 101: give a percentage" in capsys.readouterr().err


def test_show_has_every_key_in_words(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "show"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Default settings:\n")
    assert "There is no [[rule]]." in said
    for table in tables(Configuration):
        if table.many:
            continue
        [part] = [it for it in said.split("\n\n") if it.startswith(f"[{table.name}]\n")]
        lines = part.split("\n")
        for key in table.keys:
            [line] = [it for it in lines if it.startswith(f"{key.name} ") and key.meaning in it]
            assert "  default  " in line
    assert cli.main(["config", "show", str(file)]) == 0
    said = capsys.readouterr().out
    assert "[[rule]] number 3" in said
    assert [it.split()[:4] for it in said.split("\n") if it[:5] == "looks"] == [
        ["looks", "1", "line", "2"]
    ]


def test_init_prints_or_writes_what_check_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.toml"
    assert cli.main(["config", "init"]) == 0
    text = capsys.readouterr().out
    assert cli.main(["config", "init", str(path)]) == 0
    assert path.read_text() == text
    assert stat.S_IMODE(path.stat().st_mode) & 0o111 == 0
    assert cli.main(["config", "check", str(path)]) == 0
    path.write_text("mine")
    assert cli.main(["config", "init", str(path)]) == 2
    assert "exists already, and was left as it is: --force replaces it" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert cli.main(["config", "init", "--force", str(path)]) == 0
    assert path.read_text() == text
    assert cli.main(["config", "init", "--force"]) == 2


@pytest.mark.parametrize(
    "words", [[], ["frobnicate"], ["check"], ["check", ""], ["show", "a", "b"]]
)
def test_wrong_usage_is_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["config", *words])
    assert left.value.code == 2
    assert "usage: pagemerge config" in capsys.readouterr().err


def test_a_daemon_refuses_a_wrong_file_with_its_first_error(file: Path) -> None:
    file.write_text("[hub]\nlooks = 0\nleast_run = 0\n")
    command = [sys.executable, "-m", "pagemerge", "daemon", "--config", str(file)]
    socket = ["--socket", str(file.with_name("s"))]
    ended = subprocess.run(command + socket, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert f"{file}:2: hub.looks: 0 is not allowed" in ended.stderr
    assert "(and 1 more: `pagemerge config check` lists all)" in ended.stderr
