"""What is known of a program before it starts, and whether the agent gets into it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.hub.preload import LIBRARY, obstacle
from pagemerge.linux import program
from tests.support.commands import NOBODY
from tests.support.programs import AARCH64, I386, MUSL, X86_64, elf, made

PYTHON = Path(sys.executable).resolve()
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the programs are for x86_64")


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("loader", ["", MUSL])
def test_an_elf_file_says_what_it_is(tmp_path: Path, bits: int, big: bool, loader: str) -> None:
    file = made(tmp_path / "it", elf(loader, bits=bits, machine=AARCH64, big=big))
    assert program.elf(file) == program.Elf(bits, AARCH64, loader)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broken") / "it"


@given(st.binary(max_size=80), st.integers(0, 130))
def test_a_broken_one_is_read_without_an_error(broken: Path, noise: bytes, at: int) -> None:
    whole = elf(MUSL)
    for contents in (whole[:at] + noise + whole[at + len(noise) :], whole[:at]):
        broken.write_bytes(contents)
        program.elf(broken)


def test_what_is_no_elf_file_is_none(broken: Path) -> None:
    for contents in (b"", b"\x7fELF", b"\x7fELF\x03" + bytes(60), b"#!/bin/sh\n" + bytes(60)):
        broken.write_bytes(contents)
        assert program.elf(broken) is None
    assert program.elf(Path("/no/where")) is None


def test_the_library_and_this_python_are_for_one_machine() -> None:
    ours, python = program.elf(LIBRARY), program.elf(PYTHON)
    assert ours and python
    assert (ours.bits, ours.machine) == (python.bits, python.machine)
    assert obstacle(PYTHON) == ""
    assert program.is_glibc(Path(python.loader)) is True
    assert program.is_glibc(PYTHON) is False
    assert program.is_glibc(Path("/no/where")) is None


def test_a_script_is_followed_to_what_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    static = made(tmp_path / "static", elf())
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = {
        "plain": f"#!{static}",
        "blanks": f"#! \t{static} -x y",
        "env": "#!/usr/bin/env static",
        "split": "#!/usr/bin/env -S LC_ALL=C static -x",
        "nested": f"#!{tmp_path / 'plain'}\n",
    }
    for name, line in lines.items():
        made(tmp_path / name, line + "\necho\n")
    for name in lines:
        script = tmp_path / name
        chain = program.interpreters(script)
        assert (chain[0], chain[-1]) == (script, static), name
    assert program.interpreters(static) == [static]
    unknown = made(tmp_path / "unknown", "#!/usr/bin/env no-such-program\n")
    assert program.interpreters(unknown)[1:] == [Path("/usr/bin/env")]


def test_a_circle_of_scripts_ends(tmp_path: Path) -> None:
    script = made(tmp_path / "me", f"#!{tmp_path / 'me'}\n")
    assert len(program.interpreters(script)) == 6
    for text in (b"#!", b"#!  \n", b"#!/\xff\xfe\n", b""):
        made(script, text)
        assert len(program.interpreters(script)) <= 2


@x86_64
@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (elf(), "is linked statically"),
        (elf(MUSL), "musl"),
        (elf("/lib/ld-linux.so.2", bits=32, machine=I386), "is a 32-bit program"),
        (elf("/lib/ld-linux-aarch64.so.1", machine=AARCH64), "another kind of processor"),
        (elf(str(PYTHON)), "another C library than glibc"),
        (elf("/lib64/ld-that-is-not-here.so"), ""),
        (b"no program at all", ""),
    ],
)
def test_what_the_agent_does_not_get_into(tmp_path: Path, contents: bytes, reason: str) -> None:
    file = made(tmp_path / "it", contents)
    script = made(tmp_path / "script", f"#!{file}\n")
    assert reason in obstacle(file)
    assert bool(obstacle(file)) == bool(reason)
    if reason:
        assert (
            obstacle(script)
            == f"{script} is run by {file}, which {obstacle(file)[len(str(file)) + 1 :]}"
        )
    else:
        assert obstacle(script) == ""


def test_a_script_gets_no_rights_from_its_mode(tmp_path: Path) -> None:
    """The kernel takes those of its interpreter."""
    script = made(tmp_path / "script", f"#!{sys.executable}\n", mode=0o6755)
    if os.geteuid() == 0:
        os.chown(script, NOBODY, NOBODY)
        script.chmod(0o6755)
    assert obstacle(script) == ""


@pytest.mark.requires("root")
def test_rights_that_a_program_gains(tmp_path: Path) -> None:
    file = made(tmp_path / "it", elf(MUSL, machine=X86_64), mode=0o4755)
    assert not program.gains_rights(file), "it is our own already"
    os.chown(file, NOBODY, NOBODY)
    for mode, reason in ((0o4755, "user"), (0o2755, "group"), (0o2745, ""), (0o755, "")):
        file.chmod(mode)
        assert reason in program.gains_rights(file)
        assert bool(program.gains_rights(file)) == bool(reason)


@pytest.mark.requires("root")
def test_file_capabilities_count_for_ordinary_users(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    file = made(tmp_path / "it", elf(MUSL))
    # Revision 2, in effect, CAP_NET_RAW (capabilities(7), linux/capability.h).
    os.setxattr(file, "security.capability", bytes.fromhex("0100000200200000") + bytes(12))
    assert not program.gains_rights(file), "root has them all"
    assert as_nobody(file, tmp_path) == "has file capabilities"
    os.removexattr(file, "security.capability")
    assert as_nobody(file, tmp_path) == ""


def as_nobody(file: Path, open_to_all: Path) -> str:
    """What an ordinary user is told of the rights of ``file``."""
    code = (
        "import os\nfrom pathlib import Path\n"
        "from pagemerge.linux.program import gains_rights\n"
        f"os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)\n"
        f"os.chdir({str(open_to_all)!r})\n"
        f"print(gains_rights(Path({file.name!r})), end='')"
    )
    for folder in open_to_all.parents[:2]:
        folder.chmod(folder.stat().st_mode | 0o111)
    return subprocess.check_output([sys.executable, "-c", code], text=True)
