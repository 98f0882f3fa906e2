"""``pagemerge status``: how counters are told, from counters made by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from rich.console import Console

from pagemerge import figures
from pagemerge.cli import status
from pagemerge.hub.model import ClientStatus, Status

CLIENT = ClientStatus(
    pid=42,
    name="python3",
    uid=1000,
    domain="uid 1000",
    barrier="move",
    regions=3,
    bytes=128_000_000,
    merged_pages=10_000,
    zero_pages=500,
    mappings=77,
    skipped={"pinned": 12, "contended": 0},
    note="",
)
STATUS = Status(
    engine="user",
    hub_pid=1,
    pages_shared=12_345,
    pages_sharing=48_889,
    zero_pages=0,
    pages_unshared=10,
    pages_volatile=5,
    full_scans=4,
    store_bytes=50_565_120,
    metadata_bytes=1_000_000,
    general_profit_bytes=190_000_000,
    cpu_seconds=0.4,
    seconds=100.0,
    clients=(CLIENT, replace(CLIENT, pid=43, merged_pages=20_000), replace(CLIENT, pid=44)),
)


def drawn(given: Status, width: int = 120) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(status.clients(given, width))
    return capture.get().splitlines()


def test_the_sentence_has_gain_and_price() -> None:
    assert status.sentence(STATUS) == (
        "The hub keeps 12,345 stable pages in place of 61,234: "
        "190 MB saved for 3 clients, at 0.4% of a core over 100 s."
    )


def test_the_sentence_when_there_is_nothing_yet() -> None:
    empty = replace(
        STATUS, pages_shared=0, pages_sharing=0, general_profit_bytes=-4096, seconds=0.0, clients=()
    )
    assert status.sentence(empty) == (
        "The hub keeps 0 stable pages in place of 0: "
        "it takes 4.1 kB more than it saves for 0 clients, at 0.0% of a core over 0.00 s."
    )


def test_the_table_is_sorted_by_gain() -> None:
    heading, *rows = drawn(STATUS)
    assert heading.split()[:4] == ["pid", "name", "domain", "barrier"]
    assert [row.split()[0] for row in rows] == ["43", "42", "44"]
    assert "128 MB" in rows[0]


def test_on_a_narrow_screen_domains_can_be_told_apart() -> None:
    for domain in ("uid 1000, tenant-7", "uid 1000, tenant-8"):
        heading, row = drawn(replace(STATUS, clients=(replace(CLIENT, domain=domain),)), 80)
        assert domain in row and len(row.rstrip()) <= 80
        assert "merged" in heading and "regions" not in heading


def test_a_clients_name_cannot_steer_the_terminal() -> None:
    hostile = replace(CLIENT, name="\x1b[2J[red]x", note="\x07refused")
    given = replace(STATUS, clients=(hostile,))
    assert "\\x1b[2J[red]x" in drawn(given)[1]
    assert status.notes(given)[0] == "42 \\x1b[2J[red]x: \\x07refused"


def test_notes_tell_what_was_left_alone() -> None:
    given = replace(STATUS, clients=(CLIENT,))
    assert status.notes(given) == ["42 python3: 12 candidate pages left alone: pinned"]


def test_json_has_the_promised_keys() -> None:
    written = json.loads(json.dumps(asdict(STATUS)))
    promised = """engine pages_shared pages_sharing zero_pages pages_unshared pages_volatile
        full_scans general_profit_bytes cpu_seconds clients"""
    assert set(promised.split()) <= set(written)
    of_a_client = "pid name uid regions bytes merged_pages mappings"
    assert set(of_a_client.split()) <= set(written["clients"][0])


def test_words() -> None:
    sizes = {0: "0 bytes", 999: "999 bytes", 4096: "4.1 kB", -190e6: "-190 MB", 5e15: "5000 TB"}
    assert {count: figures.size(count) for count in sizes} == sizes
    assert figures.number(1, "page") == "1 page"
    assert figures.number(2, "entry", "entries") == "2 entries"
    durations = {0.0: "0.00 s", 12: "12 s", 600: "10 min", 7200: "2 h", 864000: "10 days"}
    assert {seconds: figures.duration(seconds) for seconds in durations} == durations
