"""The soak, for a few seconds: it ends well, and it can tell when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Spawn
from tests.soak import audit, keeper, report
from tests.soak.plan import Hub, Start, plan
from tests.soak.soak import Result

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.timeout(240), pytest.mark.requires("cc")]


def soak(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run one; its exit status, its figures, and all that it said on the way."""
    argv = [sys.executable, "-m", "tests.soak", "--json", *arguments]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=220)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_short_soak_ends_well(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    status, result, said = soak("--minutes", "0.2", "--seed", "11", "--report", str(page))
    assert (status, result["faults"]) == (0, []), said
    counts = result["counts"]
    # It was no idle time: each of these has happened.
    for what in ("started", "hubs_killed", "merges", "separations", "checked", "forks", "discards"):
        assert counts[what] > 0, (what, counts)
    text = page.read_text()
    assert "**All is well" in text
    assert str(tmp_path) not in text
    assert str(ROOT) not in text


def test_a_corrupted_page_is_reported() -> None:
    status, result, _ = soak("--minutes", "0.1", "--seed", "1", "--inject", "byte")
    assert status == 1
    assert result["counts"]["wrong"] == 1
    (fault,) = result["faults"]
    for word in ("process ", "address 0x", "expected 0x", "found 0x"):
        assert word in fault


def test_what_is_left_behind_is_reported() -> None:
    """A victim that does not leave with the others: a process, a client, its slots, its slabs."""
    status, result, _ = soak(
        *["--minutes", "0.1", "--seed", "1", "--inject", "stay", "--patience", "3"]
    )
    assert status == 1
    for key in ("leaked_processes", "leaked_slots", "leaked_descriptors"):
        assert result["counts"][key] > 0, result["faults"]
    assert any("the store holds" in fault for fault in result["faults"])


def test_the_kernel_is_asked_for_slabs_and_orphans(victim: Spawn) -> None:
    """A process of this test that maps something named as a slab is found, and its mapping."""
    mapper = victim("mapper", "1", "3")
    assert mapper.pid in audit.descendants()
    assert audit.slab_mappings(mapper.pid) == 1
    assert audit.slab_mappings(1 << 30) == 0
    assert audit.descriptors(mapper.pid)[1] >= 3
    assert audit.resident_bytes(mapper.pid) > 1 << 20


def test_growth_without_bound_is_told_from_an_even_life() -> None:
    level = [100 << 20] * 200
    assert keeper.growth(level) is None
    assert keeper.growth([(100 + second) << 20 for second in range(200)]) is not None
    assert keeper.growth([100 << 20, 900 << 20] * 5) is None  # too short to tell
    assert keeper.thirds(level) == (100 << 20, 100 << 20)


def test_a_plan_is_its_seeds() -> None:
    barriers = ["move", "write-protect", "park"]
    events = plan(7, 1800, barriers)
    assert events == plan(7, 1800, barriers)
    assert events != plan(8, 1800, barriers)
    used = {event.barrier for event in events if isinstance(event, Start)}
    assert used == {*barriers, "intern"}
    assert not any(event.guest for event in events if isinstance(event, Start))
    machines = plan(7, 1800, barriers, guests=True)
    assert sum(event.guest for event in machines if isinstance(event, Start)) > 20
    deaths = [event.at for event in events if isinstance(event, Hub) and event.what == "kill"]
    # The last hub lives long enough for its memory to be seen to grow.
    assert len(deaths) > 10
    assert max(deaths) <= 900


def test_no_path_of_the_machine_is_told() -> None:
    text = 'File "/home/someone/pagemerge/hub.py", line 3; /proc/12/maps is none'
    assert report.scrub(text) == 'File "hub.py", line 3; /proc/12/maps is none'
    counts = dict.fromkeys((key for key, _ in report.ROWS), 0)
    result = Result(1, 60, counts, ["the hub logged: " + text])
    assert "/home" not in report.markdown(result, "make soak")
    assert report.verdict(result).startswith("1 fault")
