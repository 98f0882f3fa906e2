"""The command line: help, wrong usage, and how errors leave the program."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from pagemerge import __version__, cli, errors


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert all(f"  {verb} " in said for verb in cli.VERBS)


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([verb, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: pagemerge {verb}" in said
    assert (cli.load(verb).__doc__ or "").splitlines()[0] in " ".join(said.split())


def test_help_is_folded_to_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in (60, 80, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            cli.main(["run", "--help"])
        _, _, told = capsys.readouterr().out.partition("\n\n")  # the usage names long choices
        lines = told.split("\n")
        assert all(len(line) <= columns for line in lines)
        assert max(map(len, lines)) > min(columns, 96) * 0.8


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"pagemerge {__version__}\n"


@pytest.mark.parametrize("words", [["frobnicate"], [], ["--frobnicate"], ["status", "--nonsense"]])
def test_wrong_usage_is_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2
    said = capsys.readouterr()
    assert not said.out
    assert "usage: pagemerge" in said.err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.PagemergeError("it broke"), 1),
        (errors.HubError("no hub"), 1),
        (errors.UsageError("no such thing"), 2),
        (errors.Unsupported("not on this host"), 77),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_line_and_a_status(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Failing:
        """A verb that fails."""

        @staticmethod
        def arguments(parser: argparse.ArgumentParser) -> None:
            pass

        @staticmethod
        def run(args: argparse.Namespace) -> int:
            raise error

    monkeypatch.setattr(cli, "load", lambda name: Failing)
    assert cli.main(["status"]) == status
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("pagemerge status: ")
    assert said.err.count("\n") == 1


def test_python_m_runs_the_same_program() -> None:
    argv = [sys.executable, "-m", "pagemerge", "--version"]
    assert subprocess.check_output(argv, text=True) == f"pagemerge {__version__}\n"
