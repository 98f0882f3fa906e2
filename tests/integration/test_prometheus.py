"""What deploy/ has for Prometheus and Grafana, with the real programs and the real figures."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagemerge.watch.history import History
from pagemerge.watch.history_file import default_path
from pagemerge.watch.metrics import METRICS, PREFIX
from pagemerge.watch.model import Decision
from tests.conftest import Spawn
from tests.integration.test_metrics import PAGES, served
from tests.support.bystanders import merged
from tests.support.commands import command
from tests.support.hubs import Hub
from tests.support.prometheus import Prometheus, node_exporter, program, prometheus
from tests.unit.watch.moments import moment

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "pagemerge.rules.yml"
RULE_TESTS = DEPLOY / "prometheus" / "pagemerge.rules.test.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "pagemerge.json").read_text())
QUERIES = [(it["title"], to["expr"]) for it in DASHBOARD["panels"] for to in it["targets"]]
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())
# The figures of a host are read slowly while a process of it is slow to end.
pytestmark = pytest.mark.timeout(400)
VARIABLES = {"$__rate_interval": "10s", "$job": ".*", "$instance": ".*"}


def promtool(*words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    argv = [program("promtool"), *words]
    return subprocess.run(argv, input=given, capture_output=True, text=True, check=False)


def filled(expression: str) -> str:
    """An expression of the dashboard, with Grafana's variables replaced."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def used(text: str) -> set[str]:
    """Our metrics that a text names."""
    return {it.removeprefix(PREFIX) for it in re.findall(rf"\b{PREFIX}[a-z_]+\b", text)}


def test_rules_are_valid() -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_each_alert_fires_and_is_quiet_when_it_should() -> None:
    done = promtool("test", "rules", str(RULE_TESTS))
    assert done.returncode == 0, done.stdout + done.stderr
    text = RULE_TESTS.read_text()
    fires = set(re.findall(r"alertname: (\w+)\n +exp_alerts", text))
    quiet = set(re.findall(r"alertname: (\w+) }", text))
    assert fires == quiet == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_rule_that_never_fires_is_noticed(alert: str, tmp_path: Path) -> None:
    rules = RULES.read_text()
    broken = re.sub(
        rf"(- alert: {alert}\n +expr: )(?:\|\n(?: {{10}}.*\n)+|.*\n)", r"\1vector(0) > 1\n", rules
    )
    assert broken != rules
    (tmp_path / RULES.name).write_text(broken)
    (tmp_path / RULE_TESTS.name).write_text(RULE_TESTS.read_text())
    assert promtool("test", "rules", str(tmp_path / RULE_TESTS.name)).returncode != 0


def test_what_is_named_exists() -> None:
    assert len(QUERIES) > 20 and len(ALERTS) > 4
    for text in (RULES.read_text(), RULE_TESTS.read_text(), json.dumps(DASHBOARD)):
        assert used(text) and used(text) <= set(METRICS)


@pytest.fixture
def hosts(hub: Hub, victim: Spawn, home: Path) -> Iterator[str]:
    """A hub with clients that write, and a history with decisions; yields the target to scrape."""
    with History(default_path()) as history, ExitStack() as stack:
        topics = ("5.1 MB to go", "it seems done", "saved 5.1 MB, as promised; all are merged now")
        told = tuple(Decision(1000.0, topic) for topic in topics)
        history.add(moment(1000.0, decisions=told))
        both = [victim("member", env=hub.env) for _ in "ab"]
        for member in both:
            member.ask("copy", pages=PAGES, seed=1)
            hub.until(partial(merged, member), "merge it")
        _, url = stack.enter_context(served("127.0.0.1:0", **hub.env))
        both[0].ask("write", first=0, pages=100, seed=9)
        yield url.removeprefix("http://").removesuffix("/metrics")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where this test's history is."""
    monkeypatch.setenv("PAGEMERGE_HISTORY", str(tmp_path / "history.sqlite"))
    return tmp_path


def test_the_output_passes_promtool(hosts: str) -> None:
    with urllib.request.urlopen(f"http://{hosts}/metrics") as answer:
        text = answer.read().decode()
    done = promtool("check", "metrics", given=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bad = promtool("check", "metrics", given=text.replace("cpu_seconds_total", "cpu_millis"))
    assert bad.returncode != 0


def test_prometheus_answers_every_query_of_the_dashboard(hosts: str, tmp_path: Path) -> None:
    with prometheus(tmp_path, [hosts], RULES) as server:
        server.until("count_over_time(pagemerge_engine_up[10s]) > 3")
        for title, expression in QUERIES:
            found = server.until(filled(expression))
            assert all(value == value for _, value in found), f"{title}: {expression}: NaN"
        saved = server.query('pagemerge_saved_bytes{engine="user"}')[0][1]
        assert saved > 0
        labels(server)
        groups = server.ask("rules")["groups"]
        health = {it["name"]: it["health"] for group in groups for it in group["rules"]}
        assert health == dict.fromkeys(ALERTS, "ok")
        meta = server.ask("metadata")
        assert all(meta[f"{PREFIX}{name}"][0]["help"] for name in ("saved_bytes", "engine_up"))


def labels(server: Prometheus) -> None:
    """The queries of the dashboard's variables have values, too."""
    variables = [it for it in DASHBOARD["templating"]["list"] if it["type"] == "query"]
    assert variables
    for it in variables:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", it["query"]["query"])
        assert found
        assert server.ask(f"label/{found[2]}/values", **{"match[]": filled(found[1])})


def test_a_hub_that_dies_raises_the_alert(hub_socket: Path, victim: Spawn, tmp_path: Path) -> None:
    """The hub is killed, and its client lives on; Prometheus has the alert pending."""
    with ExitStack() as stack:
        hub = stack.enter_context(Hub(hub_socket))
        member = victim("member", env=hub.env)
        member.ask("copy", pages=PAGES, seed=1)
        hub.until(lambda: hub.client(member.pid), "have a client")
        _, url = stack.enter_context(served("127.0.0.1:0", **hub.env))
        target = url.removeprefix("http://").removesuffix("/metrics")
        server = stack.enter_context(prometheus(tmp_path, [target], RULES))
        server.until('pagemerge_processes{engine="user"} == 1')
        hub.process.kill()
        hub.process.wait()
        server.until("pagemerge_hub_lost_clients == 1")
        server.until('ALERTS{alertname="PagemergeHubDown"}')
        stack.enter_context(Hub(hub_socket))
        server.until("pagemerge_hub_lost_clients == 0")


def test_node_exporter_reads_the_text_file(hub_socket: Path, tmp_path: Path) -> None:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    done = command("metrics", "--textfile", str(folder / "pagemerge.prom"))
    assert done.returncode == 0, done.stderr
    with node_exporter(folder) as target:
        with urllib.request.urlopen(f"http://{target}/metrics") as answer:
            text = answer.read().decode()
        assert "node_textfile_scrape_error 0" in text
        assert 'pagemerge_engine_up{engine="kernel"}' in text
        with prometheus(tmp_path, [target], RULES) as server:
            found = server.until("pagemerge_moment_timestamp_seconds")
            assert found[0][1] == pytest.approx(time.time(), abs=120)
