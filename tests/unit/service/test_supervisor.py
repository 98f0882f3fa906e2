"""The loop of the daemon does not turn for nothing."""

from __future__ import annotations

from pagemerge.linux.notify import Notifier
from pagemerge.service.supervisor import Supervisor


def test_a_reload_before_the_start_leaves_nothing_to_wait_for() -> None:
    """Else the loop would turn at full speed once the time for the reload is over."""
    supervisor = Supervisor([], Notifier(), line="", reread=lambda: True)
    supervisor._reload(1000.0)
    assert supervisor._wait(2000.0) is None
