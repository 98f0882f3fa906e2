"""Programs that stand still, and that nobody has marked for KSM: what `estimate.py` measures.

As in ``loads.py``, each workload is a context: inside it, its programs have loaded their data. It
raises ``Unsupported`` for a program that this host lacks. Only QEMU marks memory by itself: its
guests', not its own.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from pagemerge.errors import PagemergeError, Unsupported

from .loads import Pids, family, needs, postgres, qemu, redis, said, started

Workload = Callable[[Path, Sequence[str]], AbstractContextManager[Pids]]
"""Given a folder for its files, and what goes before its command lines (a cgroup)."""

SERVER = """
import asyncio, csv, decimal, email, http.server, json, logging, os, sqlite3, sys, unittest
table = list(csv.reader(open(sys.argv[1])))
cache = {row[0]: json.dumps(row) for row in table}
ready, done = os.pipe()
over, alive = os.pipe()  # only the parent keeps it open
for _ in range(3):
    if not os.fork():
        os.close(alive)
        model = open(sys.argv[2], "rb").read()
        found = [cache[row[0]][:9] for row in table[::2]]  # counts references, so it copies pages
        os.write(done, b".")
        os.read(over, 1)
        os._exit(0)
for _ in range(3):
    os.read(ready, 1)
print("ready", flush=True)
sys.stdin.read()
"""
"""A server that reads a table and then forks its workers; each of them reads a model."""

KEEPER = """
import java.util.ArrayList;
import java.util.List;

public class Keeper {
    static final List<Object> kept = new ArrayList<>();

    public static void main(String[] args) throws Exception {
        byte[] model = java.nio.file.Files.readAllBytes(java.nio.file.Path.of(args[0]));
        for (int at = 0; at < model.length; at += 1 << 17)
            kept.add(java.util.Arrays.copyOfRange(model, at, at + (1 << 17)));
        for (int row = 0; row < 200000; row++)
            kept.add("row " + row);
        kept.add(model);
        System.gc();
        System.out.println("ready");
        System.in.readAllBytes();
    }
}
"""
"""A JVM that keeps a file twice, in one large array and in many small ones, and many strings."""

MODEL_BYTES = 24 << 20


def model(folder: Path) -> Path:
    """A file of bytes that are the same each time."""
    path = folder / "model"
    if not path.exists():
        source = random.Random(1)
        path.write_bytes(b"".join(source.randbytes(1 << 20) for _ in range(MODEL_BYTES >> 20)))
    return path


@contextlib.contextmanager
def workers(folder: Path, prefix: Sequence[str]) -> Iterator[Pids]:
    """Two Python servers of a parent and three workers each, all idle."""
    table = folder / "table.csv"
    source = random.Random(2)
    table.write_text("".join(f"{row},{source.random()},name {row}\n" for row in range(30_000)))
    with ExitStack() as stack:
        argv = [*prefix, sys.executable, "-c", SERVER, str(table), str(model(folder))]
        servers = [stack.enter_context(started(argv)) for _ in range(2)]
        for one in servers:
            said(one, b"ready")
        yield lambda: family([one.pid for one in servers])


@contextlib.contextmanager
def jvm(folder: Path, prefix: Sequence[str]) -> Iterator[Pids]:
    """Two JVMs with a heap of 192 MiB that is touched from the start."""
    java, javac = needs("java", "default-jre-headless"), needs("javac", "default-jdk-headless")
    source = folder / "Keeper.java"
    source.write_text(KEEPER)
    made = subprocess.run([javac, str(source)], capture_output=True, text=True, check=False)
    if made.returncode:
        raise PagemergeError(f"javac cannot compile {source}: {made.stderr}")
    heap = ["-Xms192m", "-Xmx192m", "-XX:+AlwaysPreTouch", "-XX:-UsePerfData"]
    argv = [*prefix, java, *heap, "-cp", str(folder), "Keeper", str(model(folder))]
    with ExitStack() as stack:
        machines = [stack.enter_context(started(argv)) for _ in range(2)]
        for one in machines:
            said(one, b"ready")
        yield lambda: family([one.pid for one in machines])


@contextlib.contextmanager
def mixed(folder: Path, prefix: Sequence[str]) -> Iterator[Pids]:
    """All of the others but the guests at once, as many of them as this host has."""
    with ExitStack() as stack:
        parts: list[Pids] = []
        for name in SMALL:
            within = folder / name.replace(" ", "-")
            within.mkdir()
            within.chmod(0o711)
            with contextlib.suppress(Unsupported):
                parts.append(stack.enter_context(WORKLOADS[name](within, prefix)))
        if len(parts) < 2:
            raise Unsupported("no two of its programs are installed")
        yield lambda: sorted({pid for pids in parts for pid in pids()})


WORKLOADS: dict[str, Workload] = {
    "python workers": workers,
    "redis pair": partial(redis, many=2),
    "qemu guests": qemu,
    "jvm pair": jvm,
    "postgres": postgres,
    "mixed": mixed,
}

SMALL = ("python workers", "redis pair", "jvm pair", "postgres")
