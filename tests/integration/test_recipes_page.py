"""The commands of docs/recipes.md work, with less data and at other ports."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.lab.recipes.base import EXAMPLES

from tests.conftest import missing
from tests.support.hubs import Hub

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.S | re.M)
NEEDS = {
    "model/": ["numpy", "onnx", "onnxruntime", "curl"],
    "gunicorn/": ["numpy", "gunicorn", "curl"],
    "prefork": ["django", "gunicorn", "curl"],
    "loader/": ["numpy"],
    "redis/": ["redis-server", "redis-cli"],
    "python/": ["numpy", "curl"],
    "java/": ["javac", "java", "curl"],
    "node/": ["node", "curl"],
}
"""What a block names -> the packages of Python and the programs that it needs."""
LESS = {
    r"model\.onnx 600": "model.onnx 17",
    r"table\.npy 256": "table.npy 8",
    "PRODUCTS=200000": "PRODUCTS=5000",
    r"data\.npy 200": "data.npy 8",
    "echo 1000": "echo 64",
    r"fill\.py 1000000": "fill.py 5000",
    "catalogue 150000": "catalogue 2000",
    "Xmx512m": "Xmx64m",
    "Catalogue 128": "Catalogue 4",
    r"cluster\.js 64": "cluster.js 4",
}


def free_hundred() -> int:
    """The first two digits of a hundred ports, none of which any program has now."""
    for first in range(20, 60):
        sockets = [socket.socket() for _ in range(100)]
        try:
            for number, one in enumerate(sockets):
                one.bind(("127.0.0.1", first * 100 + number))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no hundred free ports")


def test_there_is_a_block_for_every_need() -> None:
    assert len(BLOCKS) == len(NEEDS) == PAGE.count("```console")
    for place, block in zip(NEEDS, BLOCKS, strict=True):
        assert place in block
    assert all(re.search(rf"{full}\b", PAGE) for full in LESS)


@pytest.mark.requires("uffd")
@pytest.mark.parametrize(("place", "block"), zip(NEEDS, BLOCKS, strict=False), ids=NEEDS)
def test_the_commands_work(place: str, block: str, hub: Hub, tmp_path: Path) -> None:
    for name in NEEDS[place]:
        if not (importlib.util.find_spec(name) or shutil.which(name)):
            missing("services", f"{name} is not installed")
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    lines = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    script = "\n".join(["set -e", *lines, "kill $(jobs -p) 2>/dev/null || true", "wait"])
    for full, small in LESS.items():
        script = re.sub(rf"{full}\b", small, script)
    script = re.sub(r"\b70(?=\d)", str(free_hundred()), script)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, **hub.env, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
