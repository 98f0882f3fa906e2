"""Completions, generated from the parsers, in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pagemerge import cli
from tests.conftest import missing
from tests.support.manual import BASH, FISH, ZSH, share
from tests.support.terminals import terminal

PID = str(os.getpid())
ASKED = {
    "": set(cli.VERBS),
    "sc": {"scan"},
    "scan --gr": {"--group-by"},
    "scan --group-by ": {"process", "guest", "container", "unit", "user", "domain"},
    "scan --all --sort ": {"gain", "name", "pid"},
    "daemon --engine k": {"kernel"},
    "config sh": {"show"},
    "config check FOLDER/set": {"FOLDER/settings.toml"},
    "daemon --config FOLDER/set": {"FOLDER/settings.toml"},
    "scan --image FOLDER/set": {"FOLDER/settings.toml"},
    "scan --image FOLDER/settings.toml --image FOLDER/set": {"FOLDER/settings.toml"},
    "run -- pagemerge-test-pr": {"pagemerge-test-program"},
    f"attach {PID}": {PID},
    f"attach 1 {PID}": {PID},
    "detach pagemerge-vict": {"pagemerge-victi"},  # the kernel keeps 15 bytes of a name
}
"""Line after ``pagemerge`` -> all that it can be completed to. FOLDER has ``settings.toml``."""
OF_ANOTHER_PROGRAM = {"run --engine user -- cat FOLDER/set": {"FOLDER/settings.toml"}}
"""The same; bash has no part in this, but completes files where a function finds nothing."""
HOSTILE = "$(touch bad)"
"""Name of a process."""

ZSHRC = """
fpath=($FUNCTIONS $fpath)
autoload -U compinit && compinit -u -D
compadd() {
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\\ * ]]; then
        local -a hits
        builtin compadd -A hits "$@"
        (( $#hits )) && print -l -- $hits >>$FOUND
    fi
    builtin compadd "$@"
}
zle-line-init() { BUFFER=$LINE; CURSOR=$#BUFFER; zle complete-word; exit }
zle -N zle-line-init
"""
"""zsh completes in its line editor only. This starts the editor with a line, has it completed, and
writes each match that a completion adds (zshcompwid(1), compadd) to a file."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``share`` with all generated files."""
    return share(tmp_path_factory.mktemp("manual"))


@pytest.fixture(scope="module", autouse=True)
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The pid of a process with a name of its own."""
    program = tmp_path_factory.mktemp("named") / "pagemerge-victim"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"]) as running:
        try:
            yield running.pid
        finally:
            running.kill()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file to complete to, and a program on PATH."""
    (tmp_path / "settings.toml").touch()
    program = tmp_path / "bin" / "pagemerge-test-program"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return tmp_path


def shell(name: str) -> str:
    """The path of a shell; skips the test where it is not installed."""
    return shutil.which(name) or missing(name, f"{name} is not installed")


def said(argv: list[str]) -> list[str]:
    """The lines that a command prints."""
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("line", ASKED)
def test_bash_completes(line: str, made: Path, folder: Path) -> None:
    asked = line.replace("FOLDER", str(folder))
    assert settled(in_bash(asked, made)) == wanted(line, folder)


def in_bash(asked: str, made: Path) -> list[str]:
    """What the function finds when bash calls it as for Tab (bash(1), Programmable Completion)."""
    code = """
        . "$1"
        COMP_WORDS=(pagemerge $2 "$3") COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        how=$(complete -p pagemerge) how=${how#*-F }
        ${how% *}
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    words, _, last = asked.rpartition(" ")
    return said([shell("bash"), "--norc", "-c", code, "bash", str(made / BASH), words, last])


def test_bash_offers_no_name_that_is_a_command(made: Path, tmp_path: Path) -> None:
    """bash inserts a match as it is: Enter would then run what a process has chosen as its name."""
    program = tmp_path / HOSTILE
    program.symlink_to(shutil.which("sleep") or missing("bash", "there is no sleep"))
    with subprocess.Popen([program, "60"]) as running:
        try:
            assert str(running.pid) in in_bash("attach ", made)
            offered = in_bash("attach $", made)
        finally:
            running.kill()
    assert offered == [""]
    assert not list(Path.cwd().glob("bad"))


@pytest.mark.parametrize("line", [*ASKED, *OF_ANOTHER_PROGRAM])
def test_fish_completes(line: str, made: Path, folder: Path) -> None:
    asked, expected = line.replace("FOLDER", str(folder)), wanted(line, folder)
    code = "source $argv[1]; complete --do-complete $argv[2]"
    argv = [shell("fish"), "--no-config", "-c", code, str(made / FISH), f"pagemerge {asked}"]
    assert settled(it.partition("\t")[0] for it in said(argv)) == expected


@pytest.mark.parametrize("line", [*ASKED, *OF_ANOTHER_PROGRAM])
def test_zsh_completes(line: str, made: Path, folder: Path) -> None:
    asked, expected = line.replace("FOLDER", str(folder)), wanted(line, folder)
    (folder / ".zshrc").write_text(ZSHRC)
    env = {
        **os.environ,
        "ZDOTDIR": str(folder),
        "TERM": "dumb",
        "FUNCTIONS": str((made / ZSH).parent),
        "LINE": f"pagemerge {asked}",
        "FOUND": str(folder / "found"),
    }
    with terminal([shell("zsh"), "-i", "+m"], env) as zsh:
        zsh.process.wait(timeout=60)
    found = settled((folder / "found").read_text().splitlines())
    if "FOLDER" in line:  # zsh adds files without their folder
        expected = {Path(it).name for it in expected}
    assert found == expected


def wanted(line: str, folder: Path) -> set[str]:
    """What ``line`` can be completed to."""
    return {it.replace("FOLDER", str(folder)) for it in (ASKED | OF_ANOTHER_PROGRAM)[line]}


def settled(found: Iterable[str]) -> set[str]:
    """What was found, without other processes whose pid starts with ours."""
    return {it for it in found if not it.isdigit() or it == PID}
