"""What the benchmarks do to kernel KSM is undone, on a folder that stands in for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support import ksm

FOUND = {
    "run": "1",
    "advisor_mode": "none [scan-time]",
    "pages_to_scan": "100",
    "sleep_millisecs": "20",
    "smart_scan": "1",
    "pages_shared": "0",
    "pages_sharing": "0",
    "pages_unshared": "0",
    "pages_volatile": "0",
    "full_scans": "7",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FOUND.items():
        (tmp_path / name).write_text(f"{text}\n")
    return tmp_path


def found(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text().strip() for name in FOUND}


def test_knobs_are_put_back_after_an_error(root: Path) -> None:
    with pytest.raises(ZeroDivisionError), ksm.borrowed(root) as kernel:
        assert kernel.kernel.knobs().run == 0
        kernel.start(**ksm.FLAT_OUT)
        knobs = kernel.kernel.knobs()
        assert (knobs.advisor_mode, knobs.pages_to_scan) == ("none", 100_000)
        raise ZeroDivisionError
    assert found(root) == FOUND | {"advisor_mode": "scan-time"}


def test_knobs_are_put_back_after_sigterm_which_may_come_twice(root: Path) -> None:
    with pytest.raises(SystemExit), ksm.borrowed(root) as kernel:
        kernel.start(**ksm.FLAT_OUT)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
    assert found(root) == FOUND | {"advisor_mode": "scan-time"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_host_without_it_is_told_from_one_that_forbids_it(tmp_path: Path) -> None:
    assert "CONFIG_KSM" in str(ksm.lacks(tmp_path))
