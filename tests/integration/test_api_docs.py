"""The examples of docs/api.md run as they stand, and the page names every call and error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.linux.ksm import Ksm
from pagemerge.service.api import accounts, answers, connection, wire
from pagemerge.service.api.calls import ERRORS, METHODS, OURS, SERVICE
from tests.conftest import Spawn, missing, require
from tests.support.api import Api, recorded

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
SHELL = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.S | re.M)
FUNCTION, SHELL = SHELL[0], SHELL[1:]
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)
CHANGES = ("Attach", "Detach", "Pause", "Resume")


@pytest.fixture
def api() -> Iterator[Api]:
    with (
        tempfile.TemporaryDirectory(prefix="pagemerge-test-") as made,
        Api(Path(made) / "api.sock", moment=recorded(), history=20) as running,
    ):
        yield running
        running.assert_sound()


@pytest.fixture
def knobs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kernel KSM, for examples that change it; its knobs are put back."""
    if not any(it in request.node.callspec.params["code"] for it in CHANGES):
        yield
        return
    require("kernel")
    if driver := Ksm().driver():
        pytest.skip(f"ksmd: process {driver} drives it")
    saved = Ksm().knobs()
    yield
    Ksm().put_back(saved)


def run(argv: list[str], code: str, api: Api, victim: Spawn) -> str:
    """What an example prints, with our socket and a process of ours in it."""
    child = victim("pages", "seed", "1", "pages", "0", "0", "500")
    code = code.replace("/run/pagemerge/api.sock", str(api.path)).replace("4242", str(child.pid))
    done = subprocess.run(
        [*argv, code], capture_output=True, text=True, timeout=100, check=False, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("code", SHELL, ids=range(len(SHELL)))
def test_examples_for_the_shell(code: str, api: Api, victim: Spawn, knobs: None) -> None:
    if not shutil.which("socat"):
        missing("socat", "socat is not installed")
    ours = f'python3() {{ {sys.executable} "$@"; }}\n{FUNCTION}'
    printed = run(["sh", "-c"], f"{ours}\n{code}", api, victim)
    replies = (
        [json.loads(printed)]
        if "varlink.cli" in code
        else list(map(json.loads, printed.split("\n")[:-1]))
    )
    assert len(replies) >= len(re.findall("org.varlink.service.[GA]|org.pagemerge.[A-Z]", code))
    assert not [it for it in replies if "error" in it]


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_examples_for_python(code: str, api: Api, victim: Spawn, knobs: None) -> None:
    ours = f"from pathlib import Path\n{code}".replace(
        "Service()", f"Service(Path({str(api.path)!r}))"
    )
    assert run([sys.executable, "-c"], ours, api, victim)


@pytest.mark.parametrize("method", [name for names in METHODS.values() for name in names])
def test_every_call_has_its_row_and_its_examples(method: str) -> None:
    assert f"| `{method}` |" in PAGE
    assert [it for it in SHELL if f".{method}" in it]
    told = {"Status": "service.status", "Subscribe": "service.subscribe"}
    told |= {"History": "service.history", "Decisions": "service.decisions"}
    name = told.get(method, method)
    assert [it for it in PYTHON if name in it]


def test_every_error_that_callers_get_has_its_row() -> None:
    named = set(re.findall(r"^\| `(org\.[\w.]+)` \|", PAGE, re.M))
    ours = {f"{OURS}.{name}" for name in ERRORS[OURS]}
    theirs = {f"{SERVICE}.{name}" for name in ERRORS[SERVICE]}
    assert ours <= named
    assert named - ours == theirs - {
        f"{SERVICE}.PermissionDenied",  # has no message: NotAllowed says why
        f"{SERVICE}.MethodNotImplemented",
    }


def test_the_limits_are_those_of_the_code() -> None:
    limits = PAGE.partition("## Limits")[2]
    for text, value in (
        ("| 65,536 |", wire.MOST_CALL == 65536),
        ("bytes of a reply | 32 MiB", wire.MOST_REPLY == 32 << 20),
        ("| 4,096,", accounts.MOST_CONNECTIONS == 4096),
        ("| 16; the", connection.MOST_PENDING == 16),
        ("arrive | 10 seconds", connection.SILENCE == 10),
        ("calls | 10 minutes", connection.IDLE == 600),
        ("reply | 10 seconds", connection.STALL == 10),
        ("unread | 64 MiB", accounts.MOST_UNREAD == 64 << 20),
        ("at once | one a user, two of all users", answers.MOST_SCANS == 2),
        ("a user, four of all users, 1,000 moments", answers.MOST_HISTORIES == 4),
        ("of a scan | 15 minutes", answers.LONGEST_SCAN == 900),
        ("change | 8 |", answers.MOST_CHANGES == 8),
    ):
        assert text in limits and value, text
