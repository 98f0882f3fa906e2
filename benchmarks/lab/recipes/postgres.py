"""A PostgreSQL with twelve connections that have used every table of a large schema."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from pagemerge.errors import PagemergeError

from ..loads import needs, started, succeeds, until
from .base import Round, Site, Under

CONNECTIONS = 12
BUSY = 2
"""Connections that ask at a time: as many as two processors can work on."""
WHERE = "usr/lib/postgresql/*/bin/"
AS_USER = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
SERVER_AS_USER = [
    *("setpriv", "--regid=postgres", "--clear-groups"),
    *("setpriv", "--reuid=postgres", "--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace"),
]
"""The server may hold its page faults (userfaultfd(2)), which the user engine needs."""


class Connection:
    """A psql that stays connected."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ask(self, query: str) -> bytes:
        """The one line that a query answers. Raises ``PagemergeError``."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(query.encode() + b";\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PagemergeError(f"psql ended, status {self._process.wait()}")
        return line.strip()


class Server:
    """The server, and the connections to it."""

    def __init__(self, root: int, connections: Sequence[Connection], tables: int) -> None:
        self.roots = [root]
        self._connections, self._tables = connections, tables

    def load(self, seconds: float) -> Round:
        """Ask for sums in random tables."""
        times: list[list[float]] = [[] for _ in range(BUSY)]
        wrong = [0] * BUSY
        began = time.perf_counter()

        def one(client: int) -> None:
            source = random.Random(client)
            own = self._connections[client::BUSY]
            while (asked := time.perf_counter()) < began + seconds:
                wrong[client] += own[len(times[client]) % len(own)].ask(
                    f"select sum(price) from t{source.randrange(self._tables)} where id > 10"
                ) != (b"232.5")
                times[client].append(time.perf_counter() - asked)

        threads = [threading.Thread(target=one, args=(client,)) for client in range(BUSY)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = np.concatenate([np.array(it) for it in times])
        taken = time.perf_counter() - began
        return Round(len(spent), taken, float(np.percentile(spent, 99)) * 1e3, sum(wrong))

    def check(self) -> int:
        """Have every connection add up a column of every tenth table."""
        tables = range(0, self._tables, 10)
        parts = " union all ".join(f"select price from t{it}" for it in tables)
        right = b"%.1f" % (315.0 * len(tables))
        query = f"select sum(price) from ({parts}) as all_of_them"
        return sum(it.ask(query) != right for it in self._connections)


class Postgres:
    """The recipe."""

    name = "postgres"

    def prepare(self, site: Site) -> None:
        """Find the programs; a data folder is made for each group."""
        self._server = needs("postgres", "postgresql", f"{WHERE}postgres")
        self._initdb = needs("initdb", "postgresql", f"{WHERE}initdb")
        self._psql = needs("psql", "postgresql")
        self._site, self._tables, self._count = site, 50 if site.small else 2000, 0

    @contextlib.contextmanager
    def start(self, under: Under) -> Iterator[Server]:
        """Make a database, start a server, and connect; each connection has used every table."""
        self._count += 1
        folder = self._site.folder / f"postgres-{self._count}"
        folder.mkdir()
        shutil.chown(folder, "postgres")
        subprocess.run([*AS_USER, self._initdb, "-D", folder], check=True, capture_output=True)
        settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
        settings += [
            "-c",
            "autovacuum=off",
            "-c",
            "fsync=off",
            "-c",
            "max_locks_per_transaction=256",
        ]
        argv = [
            *under.prefix,
            *SERVER_AS_USER,
            self._server,
            "-D",
            str(folder),
            *settings,
        ]
        ask = [*AS_USER, self._psql, "-h", str(folder), "-U", "postgres", "-qAt"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with contextlib.ExitStack() as stack:
            main = stack.enter_context(started(argv, env=under.env, **quiet))
            until(
                lambda: main.poll() is not None or succeeds([*ask, "-c", "select 1"]), "the start"
            )
            schema = folder / "schema.sql"
            with schema.open("wb") as file:
                self._site.run("postgres/schema.py", str(self._tables), stdout=file)
            with schema.open("rb") as file:
                subprocess.run(ask, stdin=file, check=True, capture_output=True)
            connections = [
                Connection(stack.enter_context(started(ask))) for _ in range(CONNECTIONS)
            ]
            for one in connections:
                for table in range(self._tables):
                    one.ask(f"select sum(price) from t{table}")
            yield Server(main.pid, connections, self._tables)
        shutil.rmtree(folder)
