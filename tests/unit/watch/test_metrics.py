"""Moments as metrics: names, values, and what hostile names do to the text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pagemerge.errors import AccessDenied, PagemergeError, UsageError
from pagemerge.watch import textfile
from pagemerge.watch.endpoint import Address
from pagemerge.watch.metrics import METRICS, PREFIX, Exporter
from pagemerge.watch.model import Decision, Moment
from tests.unit.watch.moments import GIB, kernel, moment, row, user

FULL = moment(
    user=user(saved_bytes=3 * GIB, cpu_seconds=2.5, full_scans=4),
    kernel=kernel(saved_bytes=GIB, sleep_millisecs=20, separations=77, governor_pid=9),
    rows=(
        row(1, guest="web", saved_bytes=5, merges=10, separations=3),
        row(2, engine="kernel", merged_bytes=0, merges=None, separations=None),
    ),
    decisions=(
        Decision(1000.0, "5.1 MB to go"),
        Decision(1000.0, "4.1 MB to go"),
        Decision(1000.0, "it seems done"),
    ),
)


def values(text: bytes) -> dict[str, float]:
    """The samples, by name and labels as they are written."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for it in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in it.labels.items())
            found[f"{it.name.removeprefix(PREFIX)}{{{labels}}}"] = it.value
    return found


def of(*moments: Moment) -> Iterator[dict[str, float]]:
    exporter = Exporter(iter(moments).__next__)
    for _ in moments:
        yield values(exporter.text())


def test_a_full_moment_has_every_metric() -> None:
    (found,) = of(FULL)
    assert {name.partition("{")[0] for name in found} == set(METRICS)
    assert found["saved_bytes{engine=user}"] == 3 * GIB
    assert found["saved_bytes{engine=kernel}"] == GIB
    assert found["cpu_seconds_total{part=hub}"] == 2.5
    assert found["cpu_seconds_total{part=ksmd}"] == 5.0
    assert found["ksmd_sleep_seconds{}"] == 0.02
    assert found["separations_total{engine=user}"] == 3
    assert found["separations_total{engine=kernel}"] == 77
    assert found["idle_processes{engine=kernel}"] == 1
    assert found["group_saved_bytes{engine=user,kind=guest,name=web}"] == 5
    assert found["decisions_total{topic=progress}"] == 2
    assert found["decisions_total{topic=check}"] == 1
    assert found["engine_up{engine=user}"] == found["governor_up{}"] == 1


def test_what_is_unknown_has_no_sample() -> None:
    (found,) = of(moment(kernel=kernel(profit_bytes=None, cpu_seconds=None, run=0)))
    assert found["engine_up{engine=user}"] == found["engine_up{engine=kernel}"] == 0
    for name in ("general_profit_bytes", "cpu_seconds_total", "merges_total"):
        assert not any(it.startswith(name) for it in found)
    assert "saved_bytes{engine=user}" not in found


def test_decisions_add_up_or_come_from_elsewhere() -> None:
    *_, last = of(FULL, FULL)
    assert last["decisions_total{topic=progress}"] == 4
    exporter = Exporter(lambda: FULL, lambda: {"done": 12})
    found = values(exporter.text())
    assert found["decisions_total{topic=done}"] == 12
    assert "decisions_total{topic=progress}" not in found


def test_hostile_names_stay_values_of_labels() -> None:
    evil = 'x"} 1\npagemerge_fake 7\n\\\x00\x1b[2J\udcff'
    (found,) = of(moment(user=user(), rows=(row(1, guest=evil), row(2, unit=evil, name=evil))))
    assert not any(name.startswith("fake") for name in found)
    assert sum(name.startswith("group_saved_bytes") for name in found) == 2


def test_labels_are_bounded() -> None:
    rows = tuple(row(pid, guest=f"guest{pid}") for pid in range(5000))
    (found,) = of(moment(user=user(), rows=rows))
    assert sum(name.startswith("group_saved_bytes") for name in found) == 51
    assert len(found) < 500


def test_clients_that_outlive_their_hub_are_lost_clients() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as client:
        alive = moment(user=user(), rows=(row(client.pid), row(1 << 29)))
        down = moment()
        told: list[Moment] = [alive, down, down, alive, down]
        exporter = Exporter(lambda: told.pop(0))
        lost = [values(exporter.text())["hub_lost_clients{}"] for _ in range(4)]
        assert lost == [0, 1, 1, 0]
        client.kill()
        client.wait()
        assert values(exporter.text())["hub_lost_clients{}"] == 0


def test_names_follow_the_rules() -> None:
    for name, (labels, told) in METRICS.items():
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
        assert not re.search(r"(milli|kilo|mega|percent|_kb|_mb|_ms)", name)
        assert told.endswith(".") and not {"le", "quantile"} & set(labels)


ADDRESSES = {
    "127.0.0.1:9838": Address("127.0.0.1", 9838),
    "9838": Address("127.0.0.1", 9838),
    "localhost:0": Address("127.0.0.1", 0),
    "[::1]:80": Address("::1", 80),
    "127.3.3.3:80": Address("127.3.3.3", 80),
    "/run/pagemerge/metrics.sock": Address(path=Path("/run/pagemerge/metrics.sock")),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_read(text: str) -> None:
    assert Address.parse(text) == ADDRESSES[text]


@pytest.mark.parametrize(
    "text", ["", "a:b", "0.0.0.0:80", "[::]:80", "10.0.0.1:80", "host:80", "1.2:3:4", "1:99999"]
)
def test_another_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="address"):
        Address.parse(text)


def test_a_text_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "pagemerge.prom"
    textfile.put(path, b"a 1\n")
    textfile.put(path, b"a 2\n")
    assert path.read_bytes() == b"a 2\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def linked(folder: Path) -> Path:
    (folder / "link.prom").symlink_to("/dev/null")
    return folder / "link.prom"


PLACES: dict[Callable[[Path], Path], tuple[type[PagemergeError], str]] = {
    lambda folder: folder / "metrics.txt": (UsageError, "names end in .prom"),
    lambda folder: folder / "none" / "a.prom": (UsageError, "there is no folder"),
    linked: (UsageError, "it is no regular file"),
    lambda folder: Path("/proc/self/a.prom"): (PagemergeError, "cannot write"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_no_place_for_it(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    kind, told = PLACES[place]
    path = place(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kind, match=told):
        textfile.put(path, b"a 1\n")
    assert sorted(tmp_path.iterdir()) == before
    assert not issubclass(kind, AccessDenied)
