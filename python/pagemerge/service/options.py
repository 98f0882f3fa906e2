"""What the command line of the daemon says, for the parts that it runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagemerge.config import Configuration
    from pagemerge.hub.hub import OnPlan
    from pagemerge.service.follow import Follower

log = logging.getLogger("pagemerge.service")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``pagemerge daemon``, and the configuration as it was at the start."""

    settings: Configuration
    config: Path | None = None
    """The file of the configuration; None without one."""
    socket: Path | None = None
    """Where the hub listens; None: at the default place."""
    cpu: float | None = None
    """Overrides ``cpu_percent``; percent of one core."""
    gentle: bool = False
    """Gives engines a latency budget that have none."""
    until_idle: bool = False
    trace: Path | None = None
    verbose: bool = False
    dry_run: bool = False
    print_plan: OnPlan | None = None
    """Prints what the hub would merge, in a dry run."""
    host_root: Path | None = None
    """In a container: where the host's file system is mounted."""
    follower: Follower | None = None
    """Tells when the file of the configuration has changed."""

    @property
    def more(self) -> str:
        """How to see more in the log, as the end of a line."""
        return "" if self.verbose or self.dry_run else "; --verbose logs more"

    def tell_start(self, what: str) -> None:
        """Log what the daemon does, at any log level, so that the terminal or the log shows that it
        runs."""
        log.info("%s%s", what, self.more)
