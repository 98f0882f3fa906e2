"""Pods opt in by annotation: an API server over HTTPS, real cgroups, a governor in a container."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pagemerge.config import read
from pagemerge.demo.dialog import end
from pagemerge.errors import PagemergeError
from pagemerge.kubernetes import api, node
from pagemerge.kubernetes.api import Cluster
from pagemerge.kubernetes.mirror import Mirror
from pagemerge.kubernetes.pods import listed
from pagemerge.linux.ksm import is_mergeable
from tests.conftest import Spawn
from tests.integration.test_host_root import host, ksm, running
from tests.support.apiserver import NODE, ApiServer, pod
from tests.support.cgroup import _remove, limited
from tests.support.commands import PAGEMERGE, command

__all__ = ["host", "ksm"]  # fixtures

UIDS = [f"0d5e8a4c-91c7-4f0e-9c1a-{at:012x}" for at in range(1200)]
BASE = '[service]\nengines = ["kernel"]\n\n[[rule]]\nguest = "vault"\nopt = "out"\n'
PATIENCE = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(tmp_path) as found:
        yield found


def mirror(server: ApiServer, folder: Path, patience: float = 10.0) -> Mirror:
    base, target = folder / "base.toml", folder / "pagemerge.toml"
    base.write_text(BASE)
    cluster = Cluster("127.0.0.1", server.port, server.credentials, patience)
    return Mirror(lambda: listed(cluster, NODE), base, target, frozenset({"default"}))


def rules(folder: Path) -> list[tuple[str, str]]:
    """The rules of pods in the file: cgroup, and in or out."""
    first, *rest = read(folder / "pagemerge.toml").rules
    assert first.guest == "vault"
    return [(it.cgroup, it.opt) for it in rest]


def written(path: Path) -> tuple[int, ...]:
    """What every write or replacement of a file changes, and reading it does not."""
    it = path.stat()
    return it.st_ino, it.st_mode, it.st_size, it.st_mtime_ns, it.st_ctime_ns


def test_wishes_become_rules(
    server: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    it = mirror(server, tmp_path)
    assert it.step()
    assert rules(tmp_path) == []
    server.pods = [
        pod("web", UIDS[0], "true"),
        pod("plain", UIDS[1]),
        pod("secret", UIDS[2], "false", namespace="bank"),
        pod("stranger\x1b[2J", UIDS[3], "true", namespace="bank"),
        pod("odd", UIDS[4], 'true"\n[kernel]'),
        {"metadata": {}},
    ]
    assert it.step() and it.step()
    found = rules(tmp_path)
    assert {uid for uid in UIDS[:9] if any(uid in cgroup for cgroup, _ in found)} == {
        UIDS[0],
        UIDS[2],
    }
    assert [(opt, UIDS[2] in cgroup) for cgroup, opt in found if cgroup[:10] == "/kubepods/"] == [
        ("out", True),
        ("in", False),
    ]
    told = [it.message for it in caplog.records if it.levelname == "WARNING"]
    assert len(told) == 3, told
    assert "pod bank/stranger\\x1b[2J gets no rule: pods of its namespace may not opt in" in told[0]
    assert "it has to be true, select or false" in told[1]
    assert told[2].startswith("1 entries of the list")


def test_a_list_in_pages_is_read_to_its_end(server: ApiServer, tmp_path: Path) -> None:
    server.pods = [pod(f"web-{at}", uid, "true") for at, uid in enumerate(UIDS[:120])]
    server.page, server.expires = 50, 1
    assert mirror(server, tmp_path).step()
    assert len(rules(tmp_path)) == 240
    assert len(server.asked) == 2 + 3, "it begins again when a page has expired"


def test_more_rules_than_fit_leave_the_file_as_it_was(server: ApiServer, tmp_path: Path) -> None:
    it = mirror(server, tmp_path)
    assert it.step()
    before = (tmp_path / "pagemerge.toml").read_bytes()
    server.pods = [pod(f"web-{at}", uid, "true") for at, uid in enumerate(UIDS)]
    assert not it.step()
    assert (tmp_path / "pagemerge.toml").read_bytes() == before


def break_off(server: ApiServer) -> None:
    server.length = 1 << 20


def garbage(server: ApiServer) -> None:
    server.raw = (200, b"<html>")


def page_of_another_kind(server: ApiServer) -> None:
    server.raw = (200, b'{"kind":"NodeList","items":[]}')


def fault(server: ApiServer) -> None:
    server.raw = (500, b"\xff\x1b[2J" * 1000)


def expired(server: ApiServer) -> None:
    server.page, server.expires = 1, 1000


def other_token(server: ApiServer) -> None:
    (server.credentials / "token").write_text("stolen")


def no_token(server: ApiServer) -> None:
    (server.credentials / "token").unlink()


def two_lines(server: ApiServer) -> None:
    (server.credentials / "token").write_text("a\r\nHost: evil")


def silent(server: ApiServer) -> None:
    server.silent.set()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (break_off, "cannot be reached: IncompleteRead|has broken off"),
        (garbage, "something that is no PodList"),
        (page_of_another_kind, "something that is no PodList"),
        (fault, r"answers GET with 500: \\xff\\x1b\[2J"),
        (expired, "answers GET with 410"),
        (other_token, "401: Unauthorized; the token is not accepted"),
        (no_token, "cannot read .*/token: No such file"),
        (two_lines, "holds no token of one line"),
        (silent, "has not answered for 0.5 seconds"),
    ],
)
def test_a_failure_keeps_the_last_rules(
    harm: Callable[[ApiServer], None],
    told: str,
    server: ApiServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.pods = [pod("web", UIDS[0], "true"), pod("api", UIDS[1], "true")]
    it = mirror(server, tmp_path, 0.5)
    assert it.step()
    before = written(tmp_path / "pagemerge.toml")
    assert len(rules(tmp_path)) == 4
    server.pods = server.pods[:1] * 2
    harm(server)
    caplog.clear()
    assert not it.step() and not it.step()
    assert written(tmp_path / "pagemerge.toml") == before
    [record] = caplog.records
    assert record.message.startswith("the rules of pods stay as they are: ")
    assert re.search(told, record.message), record.message


def test_a_server_that_is_down_or_another_one(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with ApiServer(tmp_path / "other") as other:
        stranger = Cluster("127.0.0.1", other.port, server.credentials)
        with pytest.raises(PagemergeError, match=r"certificate that ca\.crt does not vouch for"):
            listed(stranger, NODE)
        assert other.asked == [], "it must not get the token"
    with pytest.raises(PagemergeError, match="cannot be reached: Connection refused"):
        listed(Cluster("127.0.0.1", other.port, other.credentials), NODE)
    named = Cluster("localhost", server.port, server.credentials)
    with pytest.raises(PagemergeError, match="does not vouch"):
        listed(named, NODE)


def test_an_endless_answer_is_an_error(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MOST_BYTES", 1 << 20)
    server.raw = (200, b" " * (3 << 20))
    with pytest.raises(PagemergeError, match="more than 1 MiB"):
        Cluster("127.0.0.1", server.port, server.credentials).get("/api/v1/pods")


def test_what_was_written_by_hand_or_is_wrong_below(server: ApiServer, tmp_path: Path) -> None:
    server.pods = [pod("web", UIDS[0], "true")]
    it, target = mirror(server, tmp_path), tmp_path / "pagemerge.toml"
    assert it.step()
    right = target.read_text()
    target.write_text("by hand")
    assert it.step()
    assert target.read_text() == right
    for wrong in ("look = 3\n", "rule = []\n", "\xff"):
        (tmp_path / "base.toml").write_bytes(wrong.encode("latin-1"))
        assert not it.step()
        assert target.read_text() == right
    server.silent.set()  # the server is away, and the base is right again: it is used at once
    (tmp_path / "base.toml").write_text(BASE.replace("vault", "safe"))
    it.ask = lambda: listed(Cluster("127.0.0.1", server.port, server.credentials, 0.2), NODE)
    assert not it.step()
    assert read(target).rules[0].guest == "safe" and len(read(target).rules) == 3


def test_kubevirts_label(server: ApiServer) -> None:
    cluster = Cluster("127.0.0.1", server.port, server.credentials)
    assert not node.label(cluster, NODE, True), "a node without KubeVirt is left alone"
    labels = server.node["metadata"]["labels"]
    labels |= {node.LABEL: "false", "kubernetes.io/arch": "amd64"}
    assert node.label(cluster, NODE, True)
    assert labels == {node.LABEL: "true", "kubernetes.io/arch": "amd64"}
    assert not node.label(cluster, NODE, True)
    assert [verb for verb, _ in server.asked].count("PATCH") == 1
    with pytest.raises(PagemergeError, match=r"403: .*forbidden.*; bind the role"):
        node.label(cluster, "node-2", True)
    server.raw = (200, b'{"kind":"Pod","metadata":{}}')
    with pytest.raises(PagemergeError, match="no Node"):
        node.label(cluster, NODE, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--node", "../x"], "lower-case letters"),
        (["--namespace", "A"], "lower-case letters"),
        (["--namespace", "a", "--all-namespaces"], "leave out one"),
        (["--every", "0"], "1 to 3,600"),
        (["--every", "nan"], "1 to 3,600"),
        (["--server", "http://x"], "https://HOST:PORT"),
        (["--server", "https://x:1/y"], "https://HOST:PORT"),
        (["--server", "https://x:99999"], "https://HOST:PORT"),
        (["--cgroup-root", "x"], "from /"),
        (["--cgroup-root", "/a*"], "from /"),
        (["--host-root", "/"], "--kubevirt"),
        ([], "KUBERNETES_SERVICE_HOST"),
    ],
)
def test_wrong_words(words: list[str], told: str, tmp_path: Path) -> None:
    rest = [] if "--node" in words else ["--node", "n"]
    target = tmp_path / "x.toml"
    done = command(
        "pods", "--write", str(target), "--once", *rest, *words, KUBERNETES_SERVICE_HOST=""
    )
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert not target.exists()


@pytest.mark.requires("kernel", "root", "cgroup")
def test_a_pod_is_merged_by_its_annotation(
    ksm: object, host: Path, server: ApiServer, victim: Spawn, tmp_path: Path
) -> None:
    """As in deploy/kubernetes: the governor has three capabilities, and follows the file."""
    web, other = (victim("sharer", "plain") for _ in "ab")
    shared = tmp_path / "rules"
    shared.mkdir()
    shared.chmod(0o777)
    with ExitStack() as stack:
        parent = stack.enter_context(limited(1 << 30)).path
        for number, sharer in enumerate((web, other)):
            pid = sharer.pid
            path = parent
            for name in ("kubepods", "burstable", f"pod{UIDS[number]}", "0123"):
                path /= name
                if not path.exists():
                    path.mkdir()
                    stack.callback(_remove, path)
            (path / "cgroup.procs").write_text(str(pid))
        for sharer in (web, other):
            stack.callback(sharer.close)
        server.pods = [pod("web", UIDS[0], "true"), pod("other", UIDS[1])]
        words = ["--node", NODE, "--write", str(shared / "pagemerge.toml"), "--every", "1"]
        words += ["--namespace", "default", "--cgroup-root", f"/{parent.name}"]
        words += ["--server", server.url, "--credentials", str(server.credentials)]
        first = command("pods", *words, "--once")
        assert first.returncode == 0, first.stderr
        process = subprocess.Popen([*PAGEMERGE, "pods", *words], process_group=0)
        stack.callback(end, process)
        container = stack.enter_context(
            running(host, "--config", str(shared / "pagemerge.toml"), "--follow", least=True)
        )
        container.until(lambda: is_mergeable(web.pid), "opt the pod in")
        assert not is_mergeable(other.pid)
        server.pods = [pod("web", UIDS[0]), pod("other", UIDS[1], "true")]
        container.until(lambda: is_mergeable(other.pid), "opt the other pod in")
        container.until(lambda: not is_mergeable(web.pid), "let go of the first")
        server.raw = (503, b"")
        asked = len(server.asked)
        container.until(lambda: len(server.asked) > asked + 1, "ask again")
        assert is_mergeable(other.pid), "the last rules stay"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
