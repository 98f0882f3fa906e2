"""Figures as ``scan --json`` prints them, of a host that does not exist: for tests of the report.

The same seed makes the same host. Groups lie in clusters that share pages, and are shuffled.
"""

from __future__ import annotations

import random
from typing import Any

PAGE = 4096
MB = 1 << 20
CLUSTERS = ("web", "db", "build", "cache", "desktop")


def host(processes: int = 40, groups: int = 12, seed: int = 1) -> dict[str, Any]:
    """All figures of a host: every part is there."""
    draw = random.Random(seed)
    rows = [_process(draw, at) for at in range(processes)]
    read = [row for row in rows if not row["error"]]
    pages = sum(row["pages"] for row in read)
    zero = sum(row["zero_pages"] for row in read)
    saves = sum(row["saveable_bytes"] for row in read)
    left = max(saves - zero * PAGE, 0) // PAGE
    return {
        "totals": {
            "pages": pages,
            "zero_pages": zero,
            "duplicate_pages_within": left // 3,
            "duplicate_pages_across": left - left // 3,
            "already_shared_pages": pages // 20,
            "saveable_bytes": (zero + left) * PAGE,
            "saveable_bytes_by_kind": {
                "zero": zero * PAGE,
                "within": left // 3 * PAGE,
                "across": (left - left // 3) * PAGE,
            },
            "saveable_bytes_by_engine_at_most": {"kernel": saves, "user": saves // 2},
            "merged_pages": pages // 30,
            "merged_saved_bytes": pages // 40 * PAGE,
            "ineligible_bytes": pages * PAGE * 3,
            "ineligible_bytes_by_reason": {
                "file pages": pages * PAGE * 2,
                "shared memory": pages * PAGE * 9 // 10,
                "hugetlb": pages * PAGE // 10,
            },
        },
        "processes": rows,
        "processes_left_out": 0,
        "not_found": ["no process is named 'nginx'"],
        "page_size": PAGE,
        "seconds": 3.21,
        "bytes_read": pages * PAGE,
        "bytes_per_second": pages * PAGE // 3,
        "trust": {
            "domains": 3,
            "saveable_bytes_apart": saves,
            "saveable_bytes_together": saves * 5 // 4,
            "saveable_bytes_zero_only": zero * PAGE,
        },
        "watch": {
            "looks": 7,
            "seconds": 60.0,
            "saveable_pages": saves // PAGE,
            "stable_pages": saves // PAGE * 8 // 10,
            "volatile_pages": saves // PAGE // 10,
            "new_pages": saves // PAGE // 10,
            "gone_pages": 1234,
            "least_pages": saves // PAGE * 7 // 10,
            "most_pages": saves // PAGE * 9 // 10,
            "expected_bytes": saves * 83 // 100,
            "unshared_pages_per_second": 41.25,
        },
        "contents": contents(draw),
        "sharing": sharing(draw, groups),
        "why": why(draw),
        "fit": fit(),
        "compress": compress(),
    }


def _process(draw: random.Random, at: int) -> dict[str, Any]:
    pages = int(10 ** draw.uniform(2, 5.5))
    zero, duplicate = pages // draw.randint(8, 40), pages // draw.randint(3, 12)
    failed = at % 9 == 8
    row = {
        "pid": 1000 + 7 * at,
        "name": f"{draw.choice(CLUSTERS)}-worker",
        "uid": draw.choice((0, 33, 1000)),
        "domain": f"uid {draw.choice((0, 33, 1000))}",
        "pages": pages,
        "zero_pages": zero,
        "duplicate_pages": duplicate,
        "shared_pages": pages // 20,
        "saveable_bytes": (zero + duplicate // 2) * PAGE,
        "merged_pages": pages // 30,
        "unreadable_pages": 3 if at == 4 else 0,
        "ineligible_bytes": pages * PAGE // 2,
        "ineligible_bytes_by_reason": {"file pages": pages * PAGE // 2},
        "error": None,
    }
    if failed:
        row |= dict.fromkeys((key for key in row if key.endswith(("pages", "bytes"))), 0)
        row["error"] = (
            f"process {row['pid']} belongs to another user: to read /proc/{row['pid']}/pagemap, "
            "run as that user or with CAP_SYS_PTRACE"
        )
    return row


def contents(draw: random.Random) -> dict[str, Any]:
    """What is duplicated."""
    kinds = ("zeros", "file", "pointers", "unknown", "text", "repeated word")
    files = [
        {
            "path": f"/var/lib/models/{draw.randrange(10**9)}/checkpoint/of-a-model/part-{at}.bin",
            "build_id": "" if at % 2 else f"{draw.getrandbits(160):040x}",
            "saveable_bytes": 400 * MB // (at + 1),
        }
        for at in range(30)
    ]
    return {
        "kinds": [
            {
                "kind": kind,
                "saveable_bytes": 900 * MB // (at + 1) ** 2,
                "contents": 1 if kind == "zeros" else 9000 // (at + 1),
                "copies": 220_000 // (at + 1),
                "copies_by_name": {f"{name}-worker": 500 // (at + 1) for name in CLUSTERS},
                "copies_by_mapping": {"anonymous": 800, "heap": 300, "guest memory": 20},
                "files": files if kind == "file" else [],
            }
            for at, kind in enumerate(kinds)
        ],
        "top": [
            {
                "kind": kinds[at % 6],
                "saveable_bytes": 90 * MB // (at + 1),
                "copies": 23_000 // (at + 1),
                "domain": "uid 33",
                "file": files[at]["path"] if at % 6 == 1 else None,
                "file_page": 17 if at % 6 == 1 else None,
                "build_id": None,
                "first_bytes": (b"GET /index.html HTTP/1.1\r\nHost: <script>alert(1)" * 2)[
                    :48
                ].hex(),
                "copies_by_name": {"web-worker": 20, "db-worker": 3, "cache-worker": 1},
                "copies_by_mapping": {"anonymous": 20, "heap": 4},
            }
            for at in range(20)
        ],
    }


def sharing(draw: random.Random, groups: int) -> dict[str, Any]:
    """Groups in clusters; those of one cluster share much, others little or nothing."""
    names = [f"{CLUSTERS[at % 5]}{at:02d} (guest of a tenant {at:x})" for at in range(groups)]
    draw.shuffle(names)
    pairs: list[dict[str, Any]] = []
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            alike = one[:2] == other[:2]
            if alike or draw.random() < 0.4:
                common = draw.randint(20_000, 60_000) if alike else draw.randint(1, 3000)
                pairs.append({"first": one, "second": other, "common_pages": common})
    pairs.sort(key=lambda pair: -pair["common_pages"])
    return {
        "group_by": "guest",
        "groups": [
            {
                "name": name,
                "processes": 1 + at % 3,
                "pages": 500_000 // (at + 1),
                "zero_pages": 50_000 // (at + 1),
                "own_duplicate_pages": 30_000 // (at + 1),
                "shared_pages": 120_000 // (at + 1),
                "exclusive_pages": 300_000 // (at + 1),
                "saveable_bytes": 600 * MB // (at + 1),
            }
            for at, name in enumerate(names)
        ],
        "compared": names,
        "pairs": pairs,
    }


def why(draw: random.Random) -> dict[str, Any]:
    """Why processes merge little."""
    reasons = (
        ("not marked", "no MADV_MERGEABLE and no PR_SET_MEMORY_MERGE", "`pagemerge attach {pid}`"),
        ("shared memory", "the guest's memory is a memfd (share=on)", "QEMU: share=off"),
        ("no duplicates", "no other page has the same content", "nothing to gain here"),
    )
    processes: list[dict[str, Any]] = [
        {
            "pid": 2000 + at,
            "name": "qemu-system-x86",
            "guest": f"tenant{at}",
            "memory_bytes": 2048 * MB,
            "merged_bytes": 3 * MB,
            "reasons": [
                {"kind": kind, "bytes": draw.randint(1, 900) * MB, "text": text, "cure": cure}
                for kind, text, cure in reasons[: 1 + at % 3]
            ],
            "error": None,
        }
        for at in range(8)
    ]
    sums: dict[str, int] = {}
    for process in processes:
        for reason in process["reasons"]:
            sums[reason["kind"]] = sums.get(reason["kind"], 0) + reason["bytes"]
    return {"bytes_by_kind": sums, "processes": processes, "processes_left_out": 3}


def fit() -> dict[str, Any]:
    """How many more fit."""

    def plan(more: int, missing: int, full: float | None) -> dict[str, Any]:
        return {
            "more": more,
            "left_bytes": 100 * MB,
            "missing_bytes_if_all_unshares": missing,
            "seconds_until_full": full,
        }

    return {
        "like": "web-worker",
        "processes_looked_at": 8,
        "cost_bytes": {
            "without_merging": 210 * MB,
            "kernel_engine": 120 * MB,
            "user_engine": 140 * MB,
            "unshared": 212 * MB,
        },
        "available_bytes": 9000 * MB,
        "cgroup": None,
        "left_bytes": 8000 * MB,
        "reserve_bytes": 1000 * MB,
        "unsharing_bytes_per_second": 123_456.0,
        "plans": {
            "without_merging": plan(38, 0, None),
            "kernel_engine": plan(66, 2600 * MB, 8000.0),
            "user_engine": plan(57, 1900 * MB, 9000.0),
            "safe": plan(37, 0, None),
        },
        "split_of_huge_page_frees_zero_pages": True,
    }


def compress() -> dict[str, Any]:
    """What compression would save."""

    def saves(value: int) -> dict[str, int]:
        return {"value": value * MB, "low": value * 9 // 10 * MB, "high": value * 11 // 10 * MB}

    return {
        "looked_at_bytes": 8000 * MB,
        "zero_bytes": 300 * MB,
        "kept_by_merging_bytes": 6200 * MB,
        "merging_saves_bytes": 1800 * MB,
        "compressors": {
            name: {
                "saves_alone_bytes": saves(alone),
                "saves_beside_merging_bytes": saves(both - 1800),
                "saves_with_merging_bytes": saves(both),
            }
            for name, alone, both in (("lz4", 3500, 4400), ("zstd", 4500, 5300))
        },
        "same_filled_share_of_kept": 0.01,
        "near_duplicates_share_of_kept": {
            "value": 0.07,
            "low": 0.05,
            "high": 0.09,
            "mostly_zero": 0.02,
            "at_least": True,
        },
        "sampled_pages": 20_000,
        "lost_pages": 0,
        "changed_pages": 12,
        "seconds": 2.5,
    }


def sample() -> dict[str, Any]:
    """An estimate from a sample."""
    total = {
        "sources": 120,
        "pages": 4_000_000,
        "zero_pages": 200_000,
        "sampled_pages": 10_000,
        "changed_pages": 3,
        "saveable_bytes": 5200 * MB,
        "saveable_bytes_low": 5050 * MB,
        "saveable_bytes_high": 5350 * MB,
    }
    return {
        "total": total,
        "domains": [
            {"domain": f"uid {uid}", **total, "saveable_bytes": part * MB}
            | {
                "saveable_bytes_low": part * 9 // 10 * MB,
                "saveable_bytes_high": part * 11 // 10 * MB,
            }
            for uid, part in ((0, 1200), (33, 4000))
        ],
        "errors": [],
        "confidence_percent": 95,
        "page_size": PAGE,
        "bytes_read": 4_000_000 * PAGE,
        "seconds": 4.2,
    }
