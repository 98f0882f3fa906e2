"""Who may what: the kernel tells the service who calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pagemerge.linux import process as linux
from tests.conftest import Spawn
from tests.support.api import AS_USER, Api, children, recorded
from tests.support.commands import NOBODY

pytestmark = pytest.mark.requires("root")

STRANGER = 31337


@pytest.fixture
def api() -> Iterator[Api]:
    with tempfile.TemporaryDirectory(prefix="pagemerge-test-") as made:
        Path(made).chmod(0o711)
        with Api(Path(made) / "api.sock", moment=recorded(), history=3) as running:
            yield running
            running.assert_sound()


def pids(reply: dict[str, dict[str, list[dict[str, int]]]], key: str = "rows") -> list[int]:
    return [it["pid"] for it in reply["parameters"][key]]


def test_other_users_see_their_own_rows_only(api: Api) -> None:
    for uid, own, guests in ((0, [10, 11, 12, 13], [10, 12]), (NOBODY, [11, 12], [12])):
        assert pids(api.ask_as(uid, "Clients")) == own
        assert pids(api.ask_as(uid, "Guests")) == guests
        for method, more in (("Status", False), ("Subscribe", True), ("History", True)):
            moment = api.ask_as(uid, method, more)["parameters"]["moment"]
            assert [it["pid"] for it in moment["rows"]] == own, method
            assert moment["user"]["saved_bytes"] == 1 << 20
            assert bool(moment["decisions"]) == (uid == 0)
    assert pids(api.ask_as(STRANGER, "Clients")) == []


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("Attach", {"processes": ["1"]}),
        ("Attach", {"processes": ["1"], "dry_run": True}),
        ("Detach", {"processes": ["1"]}),
        ("Pause", {}),
        ("Resume", {}),
        ("Decisions", {}),
    ],
)
def test_other_users_change_nothing_and_are_told_why(
    api: Api, method: str, parameters: dict[str, Any]
) -> None:
    knob = Path("/sys/kernel/mm/ksm/run")
    before = knob.read_bytes() if knob.exists() else b""
    reply = api.ask_as(NOBODY, method, **parameters)
    assert reply["error"] == "org.pagemerge.NotAllowed"
    assert reply["parameters"]["message"] == (
        f"{method} is for root only, because it concerns the processes of all users, and you are "
        f"user {NOBODY}: call it as root (sudo)"
    )
    assert not knob.exists() or knob.read_bytes() == before


def test_a_scan_has_the_rights_of_its_caller(api: Api, victim: Spawn) -> None:
    mine = victim("pages", "seed", "1", "pages", "0", "0", "500")
    # A program of theirs from its start: one that changes its user is closed to that user.
    script = 'held=$(head -c 2000000 /dev/zero | tr "\\0" x); echo ready; read end'
    pipe = subprocess.PIPE
    with subprocess.Popen(
        ["sh", "-c", script], stdin=pipe, stdout=pipe, user=NOBODY, group=NOBODY, extra_groups=[]
    ) as theirs:
        assert theirs.stdin and theirs.stdout
        assert theirs.stdout.readline() == b"ready\n"
        wanted = [str(mine.pid), str(theirs.pid)]
        (reply,) = api.ask("Scan", processes=wanted)
        by_root = {it["pid"]: it for it in reply["parameters"]["result"]["processes"]}
        reply = api.ask_as(NOBODY, "Scan", processes=wanted)
        assert "error" not in reply, reply
        options: dict[str, Any] = {
            "what": True,
            "why": True,
            "compress": True,
            "group_by": "container",
        }
        options |= {"fit": str(theirs.pid)}
        full = api.ask_as(NOBODY, "Scan", processes=[str(theirs.pid)], **options)
        later = api.ask_as(NOBODY, "Scan", processes=[str(theirs.pid)], watch_seconds=0.2)
        by_them = {it["pid"]: it for it in reply["parameters"]["result"]["processes"]}
        refused = api.ask_as(NOBODY, "Scan", processes=[str(mine.pid)])
        theirs.stdin.close()
    assert by_root[mine.pid]["pages"] >= 500 and by_root[theirs.pid]["pages"] >= 256
    assert by_them[theirs.pid]["error"] is by_root[theirs.pid]["error"] is None
    assert by_them[theirs.pid]["pages"] == by_root[theirs.pid]["pages"]
    assert by_them[mine.pid]["pages"] == 0
    assert "belongs to uid 0: run as that user or as root" in by_them[mine.pid]["error"]
    assert {"contents", "why", "compress", "sharing", "fit"} <= set(full["parameters"]["result"])
    assert "watch" in later["parameters"]["result"]
    assert refused["error"] == "org.pagemerge.Failed"


def test_the_owner_of_a_service_sees_all_and_root_too_and_no_other_reaches_it() -> None:
    with tempfile.TemporaryDirectory(prefix="pagemerge-test-") as made:
        os.chown(made, NOBODY, NOBODY)
        Path(made).chmod(0o711)
        path = Path(made) / "api.sock"
        script = (
            "import asyncio, json, os, sys\n"
            "from tests.support.api import main\n"
            "import pagemerge.linux.process\n"
            f"os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY})\n"
            f"os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
            "from pathlib import Path\n"
            "asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2])))\n"
        )
        import msgspec

        options = msgspec.json.encode({"moment": {"time": 1.0, "host": {"total_bytes": 1}}})
        argv = [sys.executable, "-c", script, str(path), options.decode()]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as service:
            assert service.stdout and service.stdout.readline() == b"ready\n"
            try:
                assert path.stat().st_mode & 0o777 == 0o600
                api = Api(path)
                (reply,) = api.ask("Decisions")
                assert reply == {"parameters": {"decisions": []}}
                assert api.ask_as(NOBODY, "Decisions") == reply
                # Attach is allowed, but the kernel's files are not: the reason comes back.
                assert api.ask_as(NOBODY, "Pause")["error"] == "org.pagemerge.Unsupported"
                argv = [sys.executable, "-c", AS_USER, str(STRANGER), str(path), "{}", "1"]
                refused = subprocess.run(argv, capture_output=True, text=True, check=False)
                assert "PermissionError" in refused.stderr
                path.chmod(0o666)
                reply = api.ask_as(STRANGER, "Decisions")
                assert "root and user 65534, whose service this is," in str(reply)
                assert "call it as one of them" in reply["parameters"]["message"]
                reply = api.ask_as(STRANGER, "Scan", processes=["1"])
                assert "cannot scan with the rights of user 31337" in str(reply)
            finally:
                service.terminate()


@contextmanager
def scanning(api: Api, uid: int, seconds: float = 600.0) -> Iterator[subprocess.Popen[bytes]]:
    """A long scan of another user, which goes on."""
    call = {
        "method": "org.pagemerge.Scan",
        "parameters": {"all": True, "watch_seconds": seconds},
        "more": True,
    }
    argv = [sys.executable, "-c", AS_USER, str(uid), str(api.path), json.dumps(call), "999"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as caller:
        try:
            assert caller.stdout and caller.stdout.read(1)
            yield caller
        finally:
            caller.kill()


def test_long_scans_of_users_keep_no_scan_of_root_waiting(api: Api) -> None:
    with scanning(api, NOBODY), scanning(api, STRANGER):
        reply = api.ask_as(NOBODY, "Scan", processes=["1"])
        assert "has one of the scans already" in reply["parameters"]["message"]
        reply = api.ask_as(4242, "Scan", processes=["1"])
        assert "2 scans go on already" in reply["parameters"]["message"]
        (reply,) = api.ask("Scan", processes=[str(os.getpid())])
        assert reply["parameters"]["result"]["totals"]["pages"] > 0


def test_a_scan_of_a_user_ends_in_time(api: Api) -> None:
    reply = api.ask_as(NOBODY, "Scan", all=True, watch_seconds=900.0)
    assert reply["error"] == "org.pagemerge.WrongUsage"
    assert "may take 900 s" in reply["parameters"]["message"]
    with (
        Api(api.path.with_name("soon"), moment=recorded(), limits={"LONGEST_SCAN": 2.0}) as soon,
        scanning(soon, NOBODY, 1.9) as caller,
    ):
        (scanner,) = children(soon.process.pid)
        os.kill(scanner, signal.SIGSTOP)  # as that user can do
        assert caller.stdout
        said = b""
        while not (b'"error"' in said and said.endswith(b"\0")):
            said += caller.stdout.read(1)
        last = json.loads(said.split(b"\0")[-2])
        assert last["error"] == "org.pagemerge.Failed"
        assert "this takes longer than 2 s, and was ended" in last["parameters"]["message"]
        assert scanner not in linux.pids()
        soon.assert_sound()
