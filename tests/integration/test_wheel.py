"""The wheel in clean environments: every Python that is here, and no compiler."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import sys
import zipfile
from pathlib import Path

import archive
import pytest

from pagemerge import __version__
from tests.conftest import missing
from tests.support.packages import SHARED, build_wheel, interpreters, run, slow

TAG = "manylinux_2_28_x86_64"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel for all distributions."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def check_record(wheel: Path) -> list[str]:
    """Compare each file of a wheel with its row in RECORD; returns the names."""
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (record,) = (it for it in names if it.endswith(".dist-info/RECORD"))
        rows = list(csv.reader(opened.read(record).decode().splitlines()))
        assert sorted(row[0] for row in rows) == sorted(names)
        assert rows[-1] == [record, "", ""]
        for name, digest, size in rows[:-1]:
            content = opened.read(name)
            found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
            assert (digest, int(size)) == (f"sha256={found.rstrip('=')}", len(content)), name
    return names


def test_files_are_added_to_a_wheel_with_their_digests(tmp_path: Path) -> None:
    wheel = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr("some.py", "")
        digest = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).decode().rstrip("=")
        opened.writestr(
            "some-1.0.dist-info/RECORD",
            f"some.py,sha256={digest},0\nsome-1.0.dist-info/RECORD,,\n",
        )
    archive.add(wheel, {"share/a, b": b"text"})
    assert "some-1.0.data/data/share/a, b" in check_record(wheel)
    assert [it.name for it in tmp_path.iterdir()] == [wheel.name]


@slow
@pytest.mark.timeout(1800)
def test_the_wheel_is_whole(wheel: Path) -> None:
    names = check_record(wheel)
    data = f"pagemerge-{__version__}.data/data/share"
    shared = {*SHARED, "zsh/site-functions/_pagemerge"}
    assert {f"{data}/{it}" for it in shared} <= set(names)
    assert wheel.name == f"pagemerge-{__version__}-cp311-abi3-{TAG}.whl"


@slow
@pytest.mark.timeout(1800)
def test_the_wheel_runs_where_its_name_says(wheel: Path) -> None:
    said = " ".join(run(sys.executable, "-m", "auditwheel", "show", wheel).split())
    found = re.search(r'consistent with the following platform tag: "([^"]*)"', said)
    assert found, said
    assert found[1] == TAG, said


@slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_it_runs_in_a_clean_environment(version: str, wheel: Path, tmp_path: Path) -> None:
    python = next(interpreters(version), None)
    if python is None:
        missing("pythons", f"there is no Python {version} here")
    made = tmp_path / "venv"
    run(python, "-m", "venv", made)
    # Nothing else is on PATH: no compiler, and no pagemerge of another environment.
    env = {"PATH": str(made / "bin"), "HOME": str(tmp_path)}
    env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    options = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    run(made / "bin/pip", "install", *options, wheel, env=env, timeout=600)
    program = made / "bin" / "pagemerge"

    assert run(program, "--version", env=env) == f"pagemerge {__version__}\n"
    assert "MERGED" in run(program, "scan", os.getpid(), env=env, timeout=120).upper()
    run(program, "doctor", env=env, timeout=60)
    run(program, "run", "--barrier", "park", "--", "/bin/true", env=env, timeout=60)
    assert all((made / "share" / it).exists() for it in SHARED)
