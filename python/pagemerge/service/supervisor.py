"""The daemon with several engines: starts them, starts again those that die, and ends them.

It holds what must outlive an engine: the listening socket of the hub, so that programs which
connect while the hub starts again wait instead of failing, and the lock of that socket. It watches
over the knobs of ksmd: when the governor dies, they are put back before it starts again.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence

from pagemerge.linux.notify import Notifier
from pagemerge.service.process import EngineProcess

log = logging.getLogger("pagemerge.service")

ENDING = 20.0
"""Seconds that engines may take to end; then they are killed."""

RELOADING = 30.0
"""Seconds to wait for engines to reload. A look of the governor at much memory may take longer."""

GLANCE = 1.0
"""Seconds between two looks at a file that is followed."""

MOST_HEARD = 4096
"""The most bytes of a message of an engine."""

_CREDENTIALS = struct.Struct("3i")


class Supervisor:
    """Runs engines until it is told to end (SIGTERM, SIGINT).

    ``reread``: called upon SIGHUP; returns whether the engines are to read their configuration
    again. ``has_changed``: true if that should happen without SIGHUP. ``line``: what the daemon
    does, for the log.
    """

    def __init__(
        self,
        engines: Sequence[EngineProcess],
        notifier: Notifier,
        *,
        line: str,
        reread: Callable[[], bool],
        listener: socket.socket | None = None,
        has_changed: Callable[[], bool] | None = None,
    ) -> None:
        self.engines, self.line = engines, line
        self._notifier = notifier
        self._reread, self._listener = reread, listener
        self._has_changed = has_changed
        self._started = False
        self._reload_until: float | None = None
        self._signals: set[int] = set()

    def run(self) -> int:
        """Serve; returns 0, or the exit status of an engine that could not start."""
        with _mailbox() as (inbox, outbox), self._woken() as wake:
            selector = selectors.DefaultSelector()
            selector.register(inbox, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            for engine in self.engines:
                engine.notify = outbox.fileno()
            status = 0
            while not self._signals & {signal.SIGTERM, signal.SIGINT} and not status:
                self._start(time.monotonic())
                selector.select(self._wait(time.monotonic()))
                _drain(wake)
                self._hear(inbox, time.monotonic())
                status = self._bury(time.monotonic())
                self._watch(time.monotonic())
                if self._has_changed and self._has_changed():
                    self._signals.add(signal.SIGHUP)
                if signal.SIGHUP in self._signals:
                    self._signals.discard(signal.SIGHUP)
                    self._reload(time.monotonic())
                self._tell(time.monotonic())
            self._end()
            return status

    def _start(self, now: float) -> None:
        for engine in self.engines:
            if engine.process is None and engine.due is not None and engine.due <= now:
                engine.start(now)

    def _wait(self, now: float) -> float | None:
        """Return the seconds until something is due; None if nothing is."""
        dues = [it.deadline for it in self.engines] + [self._reload_until]
        if self._has_changed:
            dues.append(now + GLANCE)
        if self._notifier.beat_seconds is not None:
            dues.append(now + self._notifier.beat_seconds / 2)
        known = [due for due in dues if due is not None]
        return max(min(known) - now, 0.0) if known else None

    def _hear(self, inbox: socket.socket, now: float) -> None:
        """Read what the engines tell. The kernel names the sender of each message."""
        while True:
            try:
                data, extra, _, _ = inbox.recvmsg(MOST_HEARD, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                return
            pids = [
                _CREDENTIALS.unpack(value)[0]
                for level, kind, value in extra
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
            ]
            for engine in self.engines:
                if engine.pid and engine.pid in pids:
                    engine.hear(data.decode(errors="replace"), now)

    def _bury(self, now: float) -> int:
        """Note engines that have died. Returns the exit status for the daemon if one of them could
        not even start for the first time, else 0."""
        for engine in self.engines:
            was_ready = engine.ready
            code = engine.process.poll() if engine.process else None
            if code is None or (how := engine.ended(now)) is None:
                continue
            if self._signals & {signal.SIGTERM, signal.SIGINT}:
                return 0
            if not self._started and not was_ready:
                log.error("%s before it was ready: see above; the daemon ends", how)
                return code if code > 0 else 1
            if self._listener is not None:
                # Programs that connect now are to see a process that lives (SO_PEERCRED).
                self._listener.listen(socket.SOMAXCONN)
            engine.mend()
            wait = max((engine.due or now) - now, 0.0)
            log.warning("%s; it starts again %s", how, f"in {wait:.1f} s" if wait else "now")
        return 0

    def _watch(self, now: float) -> None:
        """Kill engines that have shown no sign of life for too long."""
        for engine in self.engines:
            if engine.process and engine.deadline is not None and engine.deadline <= now:
                log.error(
                    "%s (process %d) has shown no sign of life for %.0f s: it is killed",
                    engine.name,
                    engine.pid,
                    engine.patience,
                )
                engine.process.kill()
        self._notifier.alive()

    def _reload(self, now: float) -> None:
        if self._started:  # before that, nobody waits for the end of a reload
            self._notifier.reloading()
            self._reload_until = now + RELOADING
        if self._reread():
            for engine in self.engines:
                engine.hang_up()

    def _tell(self, now: float) -> None:
        """Tell systemd that all engines are ready or have reloaded, and what they do."""
        status = "; ".join(f"{it.name} {it.status}" for it in self.engines)
        if not self._started:
            if all(it.ready for it in self.engines):
                self._started = True
                log.info("%s", self.line)
                self._notifier.ready(status)
            return
        if self._reload_until is not None:
            waiting = [it.name for it in self.engines if it.reloading]
            if waiting and now < self._reload_until:
                return
            if waiting:
                log.warning("%s will reload when its work allows it", " and ".join(waiting))
            self._reload_until = None
            self._notifier.ready(status)
        self._notifier.status(status)

    def _end(self) -> None:
        """End all engines: SIGTERM, later SIGKILL. Then put right what one may have left."""
        self._notifier.stopping()
        running = [it for it in self.engines if it.process is not None]
        for engine in running:
            assert engine.process is not None
            engine.process.send(signal.SIGTERM)
        deadline = time.monotonic() + ENDING
        for engine in running:
            assert engine.process is not None
            if engine.process.wait(deadline - time.monotonic()) is None:
                log.warning("%s does not end: it is killed", engine.name)
                engine.process.kill()
        for engine in self.engines:
            engine.mend()

    @contextlib.contextmanager
    def _woken(self) -> Iterator[socket.socket]:
        """Note signals, and yield a socket that becomes readable with each of them."""
        wake, woken = socket.socketpair()
        for end in (wake, woken):
            end.setblocking(False)
        heard = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before = {it: signal.signal(it, self._note) for it in heard}
        old = signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        try:
            with wake, woken:
                yield wake
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self._signals.add(number)


@contextlib.contextmanager
def _mailbox() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make the sockets for the engines' messages: the daemon's end and theirs, which they inherit.
    No other process can reach them."""
    inbox, outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with inbox, outbox:
        inbox.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        inbox.setblocking(False)
        yield inbox, outbox


def _drain(wake: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while wake.recv(4096):
            pass
