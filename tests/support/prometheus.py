"""A real Prometheus of a test alone, from Debian's package, which asks our endpoint each second."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pagemerge.demo.dialog import end
from tests.conftest import missing

PACKAGES = {
    "promtool": ("prometheus", "prometheus"),
    "prometheus": ("prometheus", "prometheus"),
    "prometheus-node-exporter": ("prometheus-node-exporter", "node_exporter"),
}
"""Program -> Debian's package, and what tests call it that lack it."""

PATIENCE = 150.0
"""Seconds that a query may have no data."""


def program(name: str) -> str:
    """Where a program is; it is installed if that is possible, or else the test is skipped."""
    if found := shutil.which(name):
        return found
    package, needed = PACKAGES[name]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        argv = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(argv, env=env, capture_output=True, check=False, timeout=100)
    if found := shutil.which(name):
        return found
    return missing(needed, f"{name} is not installed, and could not be: apt-get install {package}")


class Prometheus:
    """Its API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/api/v1"

    def ask(self, what: str, **words: str) -> Any:
        """Call the API, and return its data."""
        query = urllib.parse.urlencode(words)
        with urllib.request.urlopen(f"{self._url}/{what}?{query}", timeout=20) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values that an expression has now."""
        found = self.ask("query", query=expression)["result"]
        return [(it["metric"], float(it["value"][1])) for it in found]

    def until(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Wait until an expression has values."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"no data: {expression}"
            time.sleep(0.3)
        return found


@contextmanager
def prometheus(folder: Path, targets: Sequence[str], rules: Path) -> Iterator[Prometheus]:
    """Start Prometheus with these rules; it scrapes the targets (host and port) each second."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "pagemerge", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    log = folder / "log"
    argv = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with log.open("wb") as out:
        running = subprocess.Popen(argv, stdout=out, stderr=out, cwd=folder)
    try:
        address = listening(running, log)
        _await_ready(address)
        yield Prometheus(address)
    finally:
        running.terminate()
        end(running)


@contextmanager
def node_exporter(folder: Path) -> Iterator[str]:
    """Start node_exporter, which reads the text files of a folder; yields its host and port."""
    log = folder.with_name(f"{folder.name}.log")
    argv = [
        program("prometheus-node-exporter"),
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={folder}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with log.open("wb") as out:
        running = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        yield listening(running, log)
    finally:
        running.terminate()
        end(running)


def _await_ready(address: str) -> None:
    """Wait until it answers queries: until then, also while it loads its data, the answer is 503.

    https://prometheus.io/docs/prometheus/latest/management_api/#readiness-check
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=20):
                return
        except urllib.error.URLError as error:  # also no answer at all
            assert time.monotonic() < deadline, error
            time.sleep(0.05)


def listening(running: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until a program has logged where it listens."""
    deadline = time.monotonic() + PATIENCE
    pattern = re.compile(r"address=(127\.0\.0\.1:[1-9]\d*)")
    while not (found := pattern.search(log.read_text(errors="replace"))):
        assert running.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found[1]
