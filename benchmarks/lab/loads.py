"""Programs that people run several of, with what they load: Redis, Python, Node, PostgreSQL, QEMU.

Each load is a context. Inside, its programs have loaded their data and stand still; kernel KSM may
merge their memory. It raises ``Unsupported`` for a program that this host lacks.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from pagemerge.demo.dialog import end
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux import process

from . import guest

MARKED = [sys.executable, "-m", "pagemerge", "run", "--engine", "kernel", "--"]
PATIENCE = 300.0
"""Seconds that a program may take to start, or to load its data, on a busy host."""

Pids = Callable[[], list[int]]
"""The processes of a load."""
Load = Callable[[Path], AbstractContextManager[Pids]]
"""``folder``: for its files."""

TEMPORARIES = """
import random, sys, time
PAGE, source = 4096, random.Random(1)
kept = [source.randbytes(PAGE << 8) for _ in range(48)]
ends = time.monotonic() + 20
while time.monotonic() < ends:  # what everybody has, for a while
    source = random.Random(2)
    passing = [source.randbytes(PAGE << 8) for _ in range(24)]
    time.sleep(0.5)
    del passing
print("ready", flush=True)
sys.stdin.read()
"""

CLUSTER = """
const cluster = require('node:cluster');
if (cluster.isPrimary) {
  let ready = 0;
  for (let i = 0; i < 4; i++)
    cluster.fork().on('message', () => { if (++ready === 4) console.log('ready'); });
} else {
  const rows = [];
  for (let i = 0; i < 200000; i++) rows.push({id: i, name: 'row ' + i, at: i * 0.5});
  const bodies = [];
  for (let i = 0; i < 200; i++) bodies.push(Buffer.alloc(1 << 17, 'body ' + i));
  globalThis.kept = [rows, bodies];
  if (globalThis.gc) globalThis.gc();
  process.send('ready');
  setInterval(() => {}, 1 << 30);
}
"""

ROWS = (
    "declare kept cursor with hold for "
    "select i, repeat(md5(i::text), 5000) from generate_series(1, 300) i;"
)
"""Values of their own mappings: in front of each smaller one PostgreSQL keeps an address."""


def needs(name: str, package: str, where: str = "") -> str:
    """The path of a program, of those in PATH or that ``where`` fits.

    Raises ``Unsupported`` with the package to install.
    """
    found = shutil.which(name) or (where and next(map(str, Path("/").glob(where)), ""))
    if not found:
        raise Unsupported(f"{name} is not installed (Debian: apt install {package})")
    return found


def family(roots: Sequence[int]) -> list[int]:
    """These processes and all that they have started."""
    children: dict[int, list[int]] = {}
    for pid in process.pids():
        with contextlib.suppress(PagemergeError):
            children.setdefault(process.stat(pid).parent, []).append(pid)
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return sorted(found)


@contextlib.contextmanager
def started(argv: Sequence[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is told to end, and killed if it does not."""
    settings = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    process = subprocess.Popen(argv, **{**settings, **options})  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        end(process, 20.0)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what the program has not read is lost
                if pipe:
                    pipe.close()


def said(process: subprocess.Popen[bytes], word: bytes) -> None:
    """Wait until a program has said a word on a line of its own; it is killed if it does not."""
    assert process.stdout
    alarm = threading.Timer(PATIENCE, process.kill)
    alarm.start()
    try:
        for line in process.stdout:
            if line.strip() == word:
                return
    finally:
        alarm.cancel()
    raise PagemergeError(f"{process.args!r} ended, status {process.wait()}")


def until(done: Callable[[], bool], what: str) -> None:
    """Ask again and again. Raises ``PagemergeError`` when it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise PagemergeError(f"{what} took more than {PATIENCE:g} s")
        time.sleep(0.1)


def succeeds(argv: Sequence[str]) -> bool:
    """Does this command end well?"""
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def redis(folder: Path, prefix: Sequence[str] = MARKED, many: int = 3) -> Iterator[Pids]:
    """So many servers, each with the same 200,000 keys of 400 bytes."""
    server, client = needs("redis-server", "redis-server"), needs("redis-cli", "redis-tools")
    with ExitStack() as stack:
        servers, ask = [], []
        for number in range(many):
            socket = str(folder / f"redis-{number}")
            argv = [*prefix, server, "--port", "0", "--unixsocket", socket, "--save", ""]
            argv += ["--enable-debug-command", "yes"]
            servers.append(stack.enter_context(started(argv, stdout=subprocess.DEVNULL)).pid)
            ask.append([client, "-s", socket])
        for one in ask:
            until(partial(succeeds, [*one, "ping"]), "a server's start")
            subprocess.run(
                [*one, "debug", "populate", "200000", "key", "400"], check=True, capture_output=True
            )
        yield lambda: family(servers)


@contextlib.contextmanager
def python(folder: Path) -> Iterator[Pids]:
    """Four programs with the same 48 MiB, and 24 MiB that come and go for 20 s."""
    with ExitStack() as stack:
        argv = [*MARKED, sys.executable, "-c", TEMPORARIES]
        programs = [stack.enter_context(started(argv)) for _ in range(4)]
        for one in programs:
            said(one, b"ready")
        yield lambda: family([one.pid for one in programs])


@contextlib.contextmanager
def node(folder: Path) -> Iterator[Pids]:
    """A cluster of four workers with the same 200,000 objects and 200 buffers of 128 KiB."""
    script = folder / "cluster.js"
    script.write_text(CLUSTER)
    with started([*MARKED, needs("node", "nodejs"), "--expose-gc", str(script)]) as primary:
        said(primary, b"ready")
        yield lambda: family([primary.pid])


@contextlib.contextmanager
def postgres(folder: Path, prefix: Sequence[str] = MARKED) -> Iterator[Pids]:
    """A server and four clients that hold the same 300 rows of 160 kB in a cursor."""
    where = "usr/lib/postgresql/*/bin/"
    server = needs("postgres", "postgresql", f"{where}postgres")
    initdb, psql = needs("initdb", "postgresql", f"{where}initdb"), needs("psql", "postgresql")
    data = folder / "data"
    data.mkdir()
    shutil.chown(data, "postgres")
    shutil.chown(folder, "postgres")
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    subprocess.run([*as_user, initdb, "-D", str(data)], check=True, capture_output=True)
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
    settings += ["-c", "work_mem=256MB", "-c", "autovacuum=off"]
    ask = [*as_user, psql, "-h", str(folder), "-U", "postgres", "-qAt"]
    with ExitStack() as stack:
        argv = [*prefix, *as_user, server, "-D", str(data), *settings]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        main = stack.enter_context(started(argv, **quiet))
        until(lambda: succeeds([*ask, "-c", "select 1"]), "the server's start")
        clients = [stack.enter_context(started(ask)) for _ in range(4)]
        for one in clients:
            assert one.stdin
            one.stdin.write(f"{ROWS}\nselect 'ready';\n".encode())
            one.stdin.flush()
            said(one, b"ready")
        yield lambda: family([main.pid])


@contextlib.contextmanager
def qemu(folder: Path, prefix: Sequence[str] = ()) -> Iterator[Pids]:
    """Three guests of 256 MiB, which mark their memory by themselves."""
    with guest.image(48 << 20) as image, ExitStack() as stack:
        size = guest.Size(256, 16, 32, every_seconds=3600)
        guests = [stack.enter_context(guest.Guest(image, size, prefix=prefix)) for _ in range(3)]
        for one in guests:
            one.until_ready(PATIENCE)
        yield lambda: [one.pid for one in guests]


LOADS: dict[str, Load] = {
    "redis": redis,
    "python": python,
    "node": node,
    "postgres": postgres,
    "qemu": qemu,
}
