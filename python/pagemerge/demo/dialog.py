"""A dialog of two processes in JSON lines over pipes: the parent asks, the child answers.

The child writes one line when it is ready, then answers each line that it reads, in order, and
exits at the end of its input; so it cannot outlive its parent. Every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import RawIOBase
from types import TracebackType
from typing import Any, Self

from pagemerge.errors import PagemergeError
from pagemerge.linux.prctl import end_with_parent

PATIENCE = 60.0
"""Seconds that an answer may take."""

Answer = dict[str, Any]
Handler = Callable[..., Answer]


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when process ``parent`` ends; exits if it has ended."""
    if not end_with_parent(parent):
        sys.exit(1)


def serve(handlers: Mapping[str, Handler], **ready: Any) -> None:
    """Run the child's side: write ``ready``, then answer with ``handlers`` until the input ends.

    A handler gets the question's arguments by keyword. If it raises an exception, the answer is
    ``{"error": text}``, and the child continues.
    """
    # Unbuffered, so that nothing is left to flush if the parent has ended.
    with (
        contextlib.suppress(BrokenPipeError),
        open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as up,
    ):
        _say(up, {"pid": os.getpid(), **ready})
        for line in sys.stdin.buffer:
            _say(up, _answer(handlers, json.loads(line)))


def _answer(handlers: Mapping[str, Handler], question: dict[str, Any]) -> Answer:
    try:
        return handlers[question.pop("do")](**question)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _say(up: RawIOBase, answer: Answer) -> None:
    rest = memoryview(json.dumps(answer).encode() + b"\n")
    while rest:  # a write to a pipe may be short, for example when the thread is parked in it
        rest = rest[up.write(rest) or 0 :]


class Child:
    """The parent's side: one child process, its ready line in ``ready``.

    Methods raise ``PagemergeError`` if the child does not get ready, does not answer in time, ends,
    or answers that it failed.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        # The child gets a process group of its own, so that Ctrl-C reaches only the parent, which
        # then ends the child.
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, bufsize=0, process_group=0
        )
        self.pid = self.process.pid
        self._unread = b""
        try:
            self.ready = self.answer(patience)
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, *, patience: float = PATIENCE, **arguments: Any) -> Answer:
        """Ask the child to ``do`` something, and wait ``patience`` seconds for its answer."""
        self.question(do, **arguments)
        return self.answer(patience)

    def question(self, do: str, **arguments: Any) -> None:
        """Ask without waiting; ``answer`` returns the answer."""
        line = json.dumps({"do": do, **arguments}).encode() + b"\n"
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line)
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self, patience: float = PATIENCE) -> Answer:
        """Wait ``patience`` seconds for the next answer of the child, and return it."""
        line = self._line(time.monotonic() + patience, patience)
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise PagemergeError(f"process {self.pid} failed: {answer['error']}", pid=self.pid)
        return answer

    def _line(self, deadline: float, patience: float) -> bytes:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise PagemergeError(
                        f"process {self.pid} did not answer within {patience:g} s", pid=self.pid
                    )
                part = os.read(self.process.stdout.fileno(), 65536)
                if not part:
                    raise self._ended()
                self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _ended(self) -> PagemergeError:
        status = self.process.wait(PATIENCE)
        return PagemergeError(
            f"process {self.pid} ended early, with exit status {status}", pid=self.pid
        )

    def close(self, patience: float = 5.0) -> int:
        """End the child by the end of its input, or else kill it; returns its exit status."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        return end(self.process, patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(patience=5.0 if kind is None else 0.0)


def ask_all(children: Iterable[Child], do: str, **arguments: Any) -> list[Answer]:
    """Ask all children the same at once; returns the answers in the order of ``children``."""
    asked = list(children)
    for child in asked:
        child.question(do, **arguments)
    return [child.answer() for child in asked]


def end(process: subprocess.Popen[bytes], patience: float = 5.0) -> int:
    """Wait ``patience`` seconds for ``process`` to end, then kill it; returns its exit status."""
    try:
        return process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
