"""Processes that run a function of ours, forked without exec: they share the memory of the
interpreter and of all modules with their parent, which is most of what they have."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
from collections.abc import Callable, Collection, Iterator

from pagemerge.linux.fault import told
from pagemerge.linux.prctl import end_with_parent, set_name


class Forked:
    """A child that runs ``work`` and exits with the status that it returns.

    ``comm``: its name in ps, up to 15 bytes. ``kept``: descriptors that it keeps, besides 0 to 2;
    it closes all others. The kernel sends it SIGTERM when its parent ends, however that happens
    (PR_SET_PDEATHSIG, prctl(2)). It has a process group of its own, and default signal handlers.
    Raises ``OSError`` if no process can be made.
    """

    def __init__(self, work: Callable[[], int], comm: str, kept: Collection[int] = ()) -> None:
        parent = os.getpid()
        gc.freeze()  # a collection in the child would write to all objects, and so copy them
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        with _blocked():  # a signal for the child waits until its handler is the child's own
            pid = os.fork()
            if pid == 0:
                try:
                    os._exit(_run(work, comm, {0, 1, 2, *kept}, parent))
                finally:
                    os._exit(1)
        self.pid = pid
        self.code: int | None = None
        """How it has ended, as ``subprocess`` has it: -N after signal N; None while it runs."""
        try:
            self._handle = os.pidfd_open(pid)
        except OSError:  # no descriptor is left: nobody would hear of this child
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def poll(self) -> int | None:
        """Return how it has ended; None while it runs."""
        self._reap(os.WNOHANG)
        return self.code

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until it has ended, or some seconds; returns as ``poll``."""
        if self.code is None:
            poller = select.poll()
            poller.register(self._handle, select.POLLIN)
            poller.poll(None if seconds is None else max(seconds, 0.0) * 1000)
        return self.poll()

    def send(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it at once, and wait for that."""
        self.send(signal.SIGKILL)
        self.wait()

    def _reap(self, flags: int) -> None:
        if self.code is not None:
            return
        pid, status = os.waitpid(self.pid, flags)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)
            os.close(self._handle)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Let signals wait. The child does not leave this block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(work: Callable[[], int], comm: str, kept: set[int], parent: int) -> int:
    """In the child: leave what is the parent's, and work."""
    try:
        is_there = end_with_parent(parent, signal.SIGTERM)
        set_name(comm)
        os.setpgid(0, 0)
        drop_handlers()
        close_all_but(kept)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return work() if is_there else 1
    except BaseException as error:
        os.write(2, f"pagemerge: {comm} has a fault: {told(error)}\n".encode(errors="replace"))
        return 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            for stream in (sys.stdout, sys.stderr):
                stream.flush()


def drop_handlers() -> None:
    """Give signals that the parent has handlers for their default action."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)


def close_all_but(kept: Collection[int]) -> None:
    """Close descriptors of the parent. Their objects must stay alive: one that is deleted would
    close a number that may mean another file by then."""
    for number in {int(it) for it in os.listdir("/proc/self/fd")} - set(kept):  # noqa: PTH208
        with contextlib.suppress(OSError):  # that of the list itself
            os.close(number)
