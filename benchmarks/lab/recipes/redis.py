"""Three Redis servers that start from the same dump."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pagemerge.errors import PagemergeError

from ..loads import needs, started, succeeds, until
from .asking import free_ports
from .base import EXAMPLES, Round, Site, Under

KEYS, KEYS_SMALL = 1_000_000, 5_000
WRITTEN = 1000
"""Keys that ``check`` writes, so that what is written is checked, too."""
CLIENTS = 8


def ask(port: int, *words: str) -> str:
    """What a server answers. Raises ``PagemergeError``."""
    argv = ["redis-cli", "-p", str(port), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode or done.stdout.startswith("ERR"):
        raise PagemergeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


@contextlib.contextmanager
def server(folder: Path, under: Under) -> Iterator[tuple[int, int]]:
    """A server with the dump of its folder; yields its pid and port."""
    [port] = free_ports(1)
    argv = [*under.prefix, "redis-server", str(EXAMPLES / "redis" / "redis.conf")]
    argv += ["--port", str(port), "--dir", str(folder)]
    with started(argv, env=under.env, stdout=subprocess.DEVNULL) as process:
        client = ["redis-cli", "-p", str(port)]
        until(lambda: process.poll() is not None or succeeds([*client, "-e", "ping"]), "the start")
        until(lambda: "loading:0" in ask(port, "info", "persistence"), "loading the dump")
        yield process.pid, port


def _saved(port: int) -> bool:
    """Has BGSAVE come to its end? Raises ``PagemergeError`` if it has failed."""
    state = ask(port, "info", "persistence")
    if "rdb_last_bgsave_status:ok" not in state:
        raise PagemergeError(f"BGSAVE of the server at port {port} failed")
    return "rdb_bgsave_in_progress:0" in state


class Servers:
    """Three of them."""

    def __init__(
        self,
        folders: Sequence[Path],
        running: Sequence[tuple[int, int]],
        keys: int,
        right: set[str],
    ) -> None:
        self.roots = [pid for pid, _ in running]
        self._folders, self._ports, self._keys = folders, [port for _, port in running], keys
        self._right, self._rate = right, 0.0

    def load(self, seconds: float) -> Round:
        """Read random keys by redis-benchmark, from one server after the other."""
        if not self._rate:
            self._rate = self._benchmark(self._ports[0], 5_000)[0]
        count = max(int(self._rate * seconds / len(self._ports)), 1000)
        found = [self._benchmark(port, count) for port in self._ports]
        taken = sum(count / rate for rate, _ in found)
        return Round(count * len(found), taken, sum(p99 for _, p99 in found) / len(found))

    def _benchmark(self, port: int, count: int) -> tuple[float, float]:
        argv = ["redis-benchmark", "-p", str(port), "-c", str(CLIENTS), "-n", str(count), "--csv"]
        argv += ["-r", str(self._keys), "GET", "key:__rand_int__"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        cells = [it.strip('"') for it in done.stdout.splitlines()[-1].split(",")]
        return float(cells[-7]), float(cells[-2])

    def check(self) -> int:
        """Write some keys, compare the digests of all data, and those of what BGSAVE has saved."""
        wrong = 0
        writes = "".join(f"SET key:{it:012d} written-{it}\r\n" for it in range(WRITTEN))
        for folder, port in zip(self._folders, self._ports, strict=True):
            argv = ["redis-cli", "-p", str(port), "--pipe"]
            subprocess.run(argv, input=writes.encode(), check=True, capture_output=True)
            digest = ask(port, "debug", "digest")
            if not self._right:
                self._right.add(digest)
            (folder / "dump.rdb").unlink()
            ask(port, "bgsave")
            until(partial(_saved, port), "BGSAVE")
            with server(folder, Under()) as (_, again):
                wrong += digest not in self._right
                wrong += ask(again, "debug", "digest") not in self._right
        return wrong


class Redis:
    """The recipe."""

    name = "redis"

    def prepare(self, site: Site) -> None:
        """Make the dump, by a server that is filled and saved."""
        needs("redis-server", "redis-server"), needs("redis-benchmark", "redis-tools")
        self._site, self._keys = site, KEYS_SMALL if site.small else KEYS
        self._count, self._right = 0, set[str]()
        with server(site.folder, Under()) as (_, port):
            commands = site.folder / "commands"
            with commands.open("wb") as file:
                site.run("redis/fill.py", str(self._keys), stdout=file)
            with commands.open("rb") as file:
                argv = ["redis-cli", "-p", str(port), "--pipe"]
                subprocess.run(argv, stdin=file, check=True, capture_output=True)
            commands.unlink()
            ask(port, "save")

    @contextlib.contextmanager
    def start(self, under: Under) -> Iterator[Servers]:
        """Start three servers, each with a copy of the dump."""
        self._count += 1
        folders = [self._site.folder / f"{self._count}-{number}" for number in range(3)]
        with contextlib.ExitStack() as stack:
            running = []
            for folder in folders:
                folder.mkdir()
                shutil.copy(self._site.folder / "dump.rdb", folder)
                running.append(stack.enter_context(server(folder, under)))
            yield Servers(folders, running, self._keys, self._right)
        for folder in folders:
            shutil.rmtree(folder)
