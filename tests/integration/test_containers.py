"""Hub and clients in different PID namespaces, as with containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.support.hubs import Hub

pytestmark = pytest.mark.requires("root")
NESTED = [
    ["unshare", "-p", "-f", "--mount-proc"],
    ["unshare", "-p", "-f", "--mount-proc", "unshare", "-p", "-f", "--mount-proc"],
    ["unshare", "-U", "-r", "-p", "-f", "--mount-proc"],
]
CLIENT = """
import sys, numpy as np, pagemerge
pages = np.zeros((256, 512), np.uint64)
pages[:] = np.arange(256, dtype=np.uint64)[:, None] + 5
try:
    kept = pagemerge.copy(pages)
except Exception as error:
    print("refused:", error)
    sys.exit()
assert (kept == pages).all()
print("shared", pagemerge.stats().pages_shared, flush=True)
"""


def client(hub: Hub, *before: str) -> str:
    """What a program says that copies an array, in other namespaces."""
    done = subprocess.run(
        [*before, sys.executable, "-c", CLIENT],
        env={**os.environ, **hub.env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("before", NESTED, ids=["container", "nested", "user namespace"])
def test_a_client_in_a_container(hub: Hub, before: list[str]) -> None:
    """The hub sees it, and it sees no hub: the kernel calls that process 0."""
    probe = subprocess.run([*before, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        missing("namespaces", f"no such namespaces here: {probe.stderr.strip()}")
    assert client(hub, *before) == "shared 256"
    assert "pid namespace" in hub.log()


def test_a_client_outside_the_hubs_container(hub_socket: Path) -> None:
    """The hub cannot name it: it says so, and the program is told."""
    before = ["unshare", "-p", "-f", "--kill-child", "--mount-proc"]
    with Hub(hub_socket, before=before) as hub:
        said = client(hub)
        assert said.startswith("refused:")
        assert "run the hub on the host, or one hub in each container" in said
        assert "Success" not in said
