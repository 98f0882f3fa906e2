"""Recipes whose programs answer by HTTP: model, gunicorn, Django, Node, Java, Python."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..loads import PATIENCE, needs, started
from .asking import ask, busy, free_ports, until_answering
from .base import EXAMPLES, Round, Site, Under

NUMBERS = range(64)
"""What is asked for; each number has one right answer."""

Make = Callable[[Site], None]
Command = Callable[[Site, int], list[str]]
"""Given the port."""


class Servers:
    """A group that answers at some ports."""

    def __init__(
        self, roots: Sequence[int], ports: Sequence[int], clients: int, answers: dict[int, bytes]
    ) -> None:
        self.roots, self._ports, self._clients, self._answers = roots, ports, clients, answers
        if not answers:
            answers.update({number: ask(ports[0], number) for number in NUMBERS})

    def load(self, seconds: float) -> Round:
        """Ask for numbers, and compare what is answered."""
        return busy(self._ports, self._answers, self._clients, seconds)

    def check(self) -> int:
        """Ask every process for every number (where several share a port, the kernel chooses)."""
        asked = [(port, number) for port in self._ports for number in NUMBERS]
        return sum(ask(port, number) != self._answers[number] for port, number in asked)


@dataclass
class Http:
    """So many programs, each at a port of its own."""

    name: str
    make: Make
    command: Command
    programs: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    clients: int = 2
    """Requests that are under way at a time: as many as two processors can work on."""
    answers: dict[int, bytes] = field(default_factory=dict)

    def prepare(self, site: Site) -> None:
        """Make the data, and forget what was answered about others."""
        self._site = site
        self.answers.clear()
        self.make(site)

    @contextlib.contextmanager
    def start(self, under: Under) -> Iterator[Servers]:
        """Start the programs, and wait until all answer."""
        ports = free_ports(self.programs)
        env = {**under.env, **self.env}
        with contextlib.ExitStack() as stack:
            programs = []
            for port in ports:
                argv = [*under.prefix, *self.command(self._site, port)]
                options = {"env": env, "cwd": self._site.folder, "stdout": subprocess.DEVNULL}
                programs.append(stack.enter_context(started(argv, **options)))
            for program, port in zip(programs, ports, strict=True):
                ended = threading.Event()
                threading.Thread(target=_notes, args=(program, ended), daemon=True).start()
                until_answering(port, ended, PATIENCE)
            yield Servers([it.pid for it in programs], ports, self.clients, self.answers)


def _notes(program: subprocess.Popen[bytes], ended: threading.Event) -> None:
    program.wait()
    ended.set()


def _megabytes(site: Site, full: int, small: int) -> str:
    return str(small if site.small else full)


def _model(site: Site) -> None:
    site.needs("numpy", "onnx", "onnxruntime")
    site.run("model/make.py", "model.onnx", _megabytes(site, 600, 34))


def _table(site: Site) -> None:
    site.needs("numpy", "gunicorn")
    site.run("gunicorn/make.py", "table.npy", _megabytes(site, 256, 16))


def _django(site: Site) -> None:
    site.needs("django", "gunicorn")


def _catalogue(site: Site) -> None:
    site.needs("numpy")
    site.run("python/make.py", "catalogue", _megabytes(site, 150_000, 3_000))


def _java(site: Site) -> None:
    needs("java", "default-jre-headless")
    javac = needs("javac", "default-jdk-headless")
    argv = [javac, "-d", str(site.folder), str(EXAMPLES / "java" / "Catalogue.java")]
    subprocess.run(argv, check=True, capture_output=True)


def _node(site: Site) -> None:
    needs("node", "nodejs")


def _gunicorn(site: Site, port: int, example: str, app: str, *options: str) -> list[str]:
    argv = [site.python, "-m", "gunicorn", "--workers", "4", "--bind", f"127.0.0.1:{port}"]
    argv += ["--chdir", str(EXAMPLES / example), "--log-level", "error", *options]
    if example == "gunicorn":
        argv += ["--env", f"TABLE={site.folder / 'table.npy'}"]
    return [*argv, app]


def _shop(site: Site, port: int) -> list[str]:
    count = _megabytes(site, 200_000, 10_000)
    argv = _gunicorn(site, port, "prefork", "shop:app", "--preload")
    return ["env", f"PRODUCTS={count}", *argv]


def _serve(site: Site, port: int, example: str, data: str, *options: str) -> list[str]:
    return [site.python, str(EXAMPLES / example / "serve.py"), data, str(port), *options]


def _jvm(site: Site, port: int) -> list[str]:
    heap = _megabytes(site, 512, 64)
    argv = ["java", f"-Xms{heap}m", f"-Xmx{heap}m", "-XX:+UseSerialGC", "-cp", str(site.folder)]
    return [*argv, "Catalogue", _megabytes(site, 128, 8), str(port)]


def _cluster(site: Site, port: int) -> list[str]:
    script = str(EXAMPLES / "node" / "cluster.js")
    return ["node", "--expose-gc", script, _megabytes(site, 64, 4), str(port)]


ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""With a thread for each processor in each process, the threads of OpenBLAS wait for each other,
and the rates differ by half from round to round."""

HTTP = (
    Http("model", _model, lambda site, port: _serve(site, port, "model", "model.onnx"), 6),
    Http(
        "model, prepacked",
        _model,
        lambda site, port: _serve(site, port, "model", "model.onnx", "--prepack"),
        6,
    ),
    Http("gunicorn", _table, lambda site, port: _gunicorn(site, port, "gunicorn", "app:app")),
    Http(
        "gunicorn --preload",
        _table,
        lambda site, port: _gunicorn(site, port, "gunicorn", "app:app", "--preload"),
    ),
    Http("prefork", _django, _shop),
    Http(
        "python",
        _catalogue,
        lambda site, port: _serve(site, port, "python", "catalogue"),
        4,
        ONE_THREAD,
    ),
    Http(
        "python, fixed addresses",
        _catalogue,
        lambda site, port: ["setarch", "-R", *_serve(site, port, "python", "catalogue")],
        4,
        {"PYTHONHASHSEED": "0", **ONE_THREAD},
    ),
    Http("java", _java, _jvm, 2),
    Http("node", _node, _cluster),
)
