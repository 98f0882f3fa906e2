"""Moments of a host that is made up: guests, services and workers, with both engines at work.

``python -m tests.support.moments FILE [MOMENTS] [PROCESSES]`` writes them as a recording, which
``pagemerge top --replay FILE`` shows.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import msgspec

from pagemerge.watch.model import Decision, Host, KernelEngine, Moment, Row, UserEngine

GB, MB = 10**9, 10**6
BEGIN = 1_700_000_000.0
"""Unix time of the first moment: 22:13:20 in UTC."""
TOTAL = 64 * GB

PROGRAMS = (
    ("qemu-system-x86", "kernel", "libvirt-qemu", "machine-qemu.scope"),
    ("gunicorn", "user", "web", "shop.service"),
    ("python3", "user", "ada", "notebooks.service"),
    ("java", "kernel", "build", "ci-runner.service"),
    ("postgres", "kernel", "postgres", "postgresql.service"),
    ("node", "user", "web", "front.service"),
)

REASONS: tuple[tuple[str, dict[str, int | str]], ...] = (
    ("nothing has changed", {}),
    ("8.1 GB to save in about 4.2 s of processor time", {"run": 1, "pages_to_scan": 512}),
    ("saved 7.9 GB of 8.1 GB, as promised; 12.4 GB are merged now", {"run": 0}),
)


def recording(moments: int = 60, processes: int = 24) -> list[Moment]:
    """Moments one second apart, always the same ones."""
    draw = random.Random(15)
    sizes = [draw.uniform(0.05, 1.0) for _ in range(processes)]
    return [_moment(step, sizes) for step in range(moments)]


def _moment(step: int, sizes: list[float]) -> Moment:
    grown = 1 - math.exp(-step / 25)
    rows = tuple(_row(at, size, step, grown) for at, size in enumerate(sizes))
    saved = {
        engine: sum(row.saved_bytes for row in rows if row.engine == engine)
        for engine in ("user", "kernel")
    }
    used = 41 * GB - sum(saved.values()) + int(2 * GB * math.sin(step / 6))
    decided: tuple[Decision, ...] = ()
    if step % 12 == 3:
        reason, knobs = REASONS[step // 12 % len(REASONS)]
        decided = (Decision(BEGIN + step, reason, dict(knobs)),)
    return Moment(
        time=BEGIN + step,
        host=Host(TOTAL, TOTAL - max(used, GB), 0.4),
        user=_user(step, rows, saved["user"]),
        kernel=_kernel(step, rows, saved["kernel"]),
        rows=rows,
        decisions=decided,
    )


def _row(at: int, size: float, step: int, grown: float) -> Row:
    program, engine, user, unit = PROGRAMS[at % len(PROGRAMS)]
    guest = f"vm-{at // len(PROGRAMS) + 1:02}" if program.startswith("qemu") else ""
    memory = int(size * (4 * GB if guest else 900 * MB))
    idle = at % 7 == 4
    merged = 0 if idle else int(memory * 0.6 * grown * (0.4 + size / 2))
    is_client = engine == "user"
    return Row(
        pid=1200 + 37 * at,
        name=program,
        uid=1000 + at % 4,
        user=user,
        engine=engine,
        domain=f"user {user}" if is_client else "kernel KSM",
        guest=guest,
        unit=unit,
        cgroup=f"/system.slice/{unit}",
        memory_bytes=memory,
        merged_bytes=merged,
        saved_bytes=int(merged * 0.8),
        merges=merged // 4096 if is_client else None,
        separations=int(step * (at % 5) * 3.5) if is_client and not idle else None,
        mappings=200 + 1700 * (at % 9),
        mappings_limit=65_530,
        why="its pages change all the time" if idle and is_client else "",
        volatile_bytes=int(memory * (0.9 if idle else 0.02 * (at % 5))) if is_client else None,
        agent_cores=0.002 * (at % 6) if is_client else None,
    )


def _user(step: int, rows: tuple[Row, ...], saved: int) -> UserEngine:
    clients = [row for row in rows if row.engine == "user"]
    return UserEngine(
        hub_pid=812,
        seconds=3600.0 + step,
        cpu_seconds=40.0 + step * 0.012,
        clients=len(clients),
        saved_bytes=saved,
        profit_bytes=saved - 30 * MB,
        store_bytes=saved // 5,
        metadata_bytes=30 * MB,
        pages_shared=saved // 4096 // 5,
        pages_sharing=saved // 4096,
        zero_pages=0,
        pages_unshared=120_000,
        pages_volatile=9_000,
        full_scans=120 + step,
        merges=sum(row.merges or 0 for row in clients),
        separations=sum(row.separations or 0 for row in clients),
    )


def _kernel(step: int, rows: tuple[Row, ...], saved: int) -> KernelEngine:
    return KernelEngine(
        run=1 if step % 12 > 6 else 0,
        governor_pid=640,
        cpu_seconds=300.0 + step * 0.21,
        saved_bytes=saved,
        profit_bytes=saved - 50 * MB,
        pages_shared=saved // 4096 // 4,
        pages_sharing=saved // 4096,
        zero_pages=0,
        pages_unshared=900_000,
        pages_volatile=20_000,
        full_scans=30,
        pages_to_scan=512,
        sleep_millisecs=2,
        separations=step * 40,
    )


def write(path: Path, moments: list[Moment]) -> Path:
    """Write moments as a recording."""
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in moments))
    return path


if __name__ == "__main__":
    counts = [int(word) for word in sys.argv[2:4]]
    write(Path(sys.argv[1]), recording(*counts))
