"""A member that forks in every way while its memory is merged and written.

A child is a snapshot: each of its pages must be one that the writer wrote, and at most one may
differ from what was noted for it, because the writer notes first and writes then (numpy lets go of
the GIL while it fills a page, so that one may be half written).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from tests.victims.member import Member

import pagemerge
from pagemerge import _core
from pagemerge.demo.dialog import Answer, serve


class Forker(Member):
    """Each verb forks ``times`` times and counts children that saw something wrong."""

    def fork(self, times: int) -> Answer:
        """os.fork; the child verifies, changes everything, verifies, and leaves at once."""
        return self._children(times, os.fork, self._verify_and_change)

    def fork_and_use(self, times: int) -> Answer:
        """The child uses the interface itself: it gets an agent of its own."""
        return self._children(times, os.fork, self._use)

    def multiprocess(self, times: int) -> Answer:
        """multiprocessing's fork: the child runs Python's whole exit."""
        context = multiprocessing.get_context("fork")
        wrong = 0
        for _ in range(times):
            child = context.Process(target=self._verify_or_raise)
            child.start()
            child.join(60)
            wrong += child.exitcode != 0
        return {"wrong": wrong}

    def daemonise(self) -> Answer:
        """The double fork, closing every descriptor; the grandchild goes on merging."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.dup2(write, 3)
            os.closerange(0, 3)
            os.closerange(4, 65536)
            os.chdir("/")
            status = self._run(self._use)
            os.write(3, bytes([status]))
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        said = os.read(read, 1)
        os.close(read)
        return {"wrong": said[0] if said else 99}

    def spawn(self, times: int) -> Answer:
        """subprocess (vfork) and posix_spawn, over and over."""
        wrong = 0
        for _ in range(times):
            wrong += subprocess.run(["true"], check=False).returncode != 0
            child = os.posix_spawn("/bin/true", ["true"], os.environ)
            wrong += os.waitpid(child, 0)[1] != 0
        return {"wrong": wrong}

    def exec_in_child(self, times: int) -> Answer:
        """fork and exec by hand."""

        def run() -> int:
            os.execv("/bin/true", ["true"])

        return self._children(times, os.fork, run)

    def wait_sees_nobody(self) -> Answer:
        """wait(2) and waitid(2) know of no child: the agent's helpers are none of ours."""
        seen = 0
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                seen += os.waitpid(-1, os.WNOHANG)[0]
            except ChildProcessError:
                continue
            return {"seen": seen or -1}
        return {"seen": 0}

    def _children(self, times: int, fork: Callable[[], int], live: Callable[[], int]) -> Answer:
        wrong: list[int] = []
        for _ in range(times):
            child = fork()
            if child == 0:
                os._exit(self._run(live))
            _, status = os.waitpid(child, 0)
            if status:
                wrong.append(os.waitstatus_to_exitcode(status))
        return {"wrong": len(wrong), "statuses": wrong[:9]}

    def _run(self, live: Callable[[], int]) -> int:
        ctypes.CDLL(None).alarm(60)  # a child that hangs is a child that dies
        try:
            return live()
        except BaseException as error:
            sys.stderr.write(f"child: {error!r}\n")
            return 77

    def _verify(self) -> int:
        pages = np.arange(len(self.memory), dtype=np.uint64)
        foreign = self.memory >> np.uint64(32) != pages[:, None]
        late = (self.memory != self.wanted[:, None]).any(axis=1).sum()
        return int(foreign.any()) + 2 * int(late > 1)

    def _verify_or_raise(self) -> None:
        if self._verify():
            raise AssertionError(self._verify())

    def _verify_and_change(self) -> int:
        if status := self._verify():
            return status
        self.memory[:] = ~self.memory
        self.memory[:] = ~self.memory
        return self._verify()

    def _use(self) -> int:
        if status := self._verify():
            return status
        self.memory[:] = self.memory[:, :1].copy()
        pagemerge.intern(self.memory)
        copied = pagemerge.copy(self.memory)
        if (copied != self.memory).any() or _core.agent_summary()["hub_pid"] is None:
            return 8
        del copied
        return self._verify()


def main() -> None:
    forker = Forker()
    verbs = [name for name in dir(forker) if not name.startswith("_")]
    serve({verb: getattr(forker, verb) for verb in verbs if callable(getattr(forker, verb))})


if __name__ == "__main__":
    main()
