"""All programs in all ways, and what differs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pagemerge.linux import text
from tests.selftests import compare, stated
from tests.selftests.compare import Difference
from tests.selftests.programs import Program
from tests.selftests.running import Knobs, Run, run
from tests.selftests.ways import BARE, Place, Way
from tests.support.hubs import Hub

TAIL = 3
"""Lines of a program's output that are shown where it ended otherwise."""

_COMPLAINT = b"# companion: "


@dataclass(frozen=True, slots=True)
class Row:
    """One difference, and all that helps to explain it."""

    program: str
    way: str
    check: str
    title: str
    """What the program calls the check."""
    bare: str
    here: str
    stated: str
    """Why it must be so; empty if nobody has said so."""
    note: str
    """Where it hung, or the last lines it said."""


@dataclass(slots=True)
class Result:
    """What was run, and what differed."""

    programs: dict[str, int] = field(default_factory=dict)
    """Program -> its checks in the bare run."""
    failed: dict[str, str] = field(default_factory=dict)
    """Program -> how its bare run ended, where that was not well: such tell little here."""
    ways: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)
    """Differences that come without an agent, too."""
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def unexplained(self) -> list[Row]:
        """Differences that nobody has explained."""
        return [row for row in self.rows if not row.stated]


class Trial:
    """Runs programs in a folder of its own, beside one hub."""

    def __init__(self, place: Place, folder: Path, say: Callable[[str], None]) -> None:
        self._place, self._folder, self._say = place, folder, say
        self._hub: Hub | None = None
        self._stack = contextlib.ExitStack()
        self.result = Result()

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *ended: object) -> None:
        self._stack.close()

    def run(self, programs: Sequence[Program], ways: Sequence[Way]) -> Result:
        """Each program bare and in each of ``ways``; ``self.result``, which is complete then."""
        self.result.ways = [way.name for way in ways]
        for program in programs:
            wanted = [it for it in ways if not program.ways or it.name in program.ways]
            if not wanted:
                continue
            bare = self._bare(program)
            self.result.programs[program.name] = len(bare.report.checks)
            if bare.report.status != "exit 0":
                self.result.failed[program.name] = bare.report.status
            for way in wanted:
                rows = self._compared(program, way, bare)
                told = ", ".join(f"{row.check}: {row.bare} -> {row.here}" for row in rows[:3])
                self._say(f"{program.name}, {way.name}: {told or 'the same'}")
        return self.result

    def _compared(self, program: Program, way: Way, bare: Run) -> list[Row]:
        """What differs in one way, noted; anything odd is tried again, and without an agent."""
        here = self._beside(program, way)
        first = compare.differences(bare.report, here.report)
        if not first:
            return []
        # A program that hung is not made to hang twice.
        again = here if here.hung_in else self._beside(program, way)
        repeated = compare.differences(bare.report, again.report)
        control = self._run(program, self._place.control(way, program.argv), way, control=True)
        kept, others = compare.ours(first, compare.differences(bare.report, control.report))
        rows = [
            row if it in repeated else dataclasses.replace(row, note=f"not each time; {row.note}")
            for it, row in zip(kept, _rows(program, way, bare, here, kept), strict=True)
        ]
        self.result.rows += rows
        self.result.others += _rows(program, way, bare, here, others)
        return rows

    def _bare(self, program: Program) -> Run:
        return self._run(program, list(program.argv), BARE)

    def _beside(self, program: Program, way: Way) -> Run:
        """Run it beside a hub that lives; a hub that ends meanwhile is noted."""
        hub = self._living_hub()
        ran = self._run(program, self._place.command(way, program.argv), way)
        if (status := hub.process.poll()) is not None:
            self.result.notes.append(f"{program.name}, {way.name}: the hub ended with {status}")
        for line in {line for line in text.lines(ran.output) if line.startswith(_COMPLAINT)}:
            self.result.notes.append(f"{program.name}, {way.name}: {text.plain(line[2:], 200)}")
        return ran

    def _living_hub(self) -> Hub:
        if self._hub is None or self._hub.process.poll() is not None:
            self._hub = self._stack.enter_context(Hub(self._place.socket))
        return self._hub

    def _run(
        self, program: Program, argv: Sequence[str], way: Way, *, control: bool = False
    ) -> Run:
        env = {**self._place.environment(way, control=control), **program.env}
        knobs = Knobs()
        try:
            return run(argv, env, self._folder, program.deadline)
        finally:
            if changed := knobs.restore():
                self.result.notes.append(f"{program.name} changed {', '.join(changed)}: put back")


def _rows(
    program: Program, way: Way, bare: Run, here: Run, differences: Sequence[Difference]
) -> Iterator[Row]:
    named, said = compare.titles(bare.output), compare.titles(here.output)
    for it in differences:
        title = named.get(it.check, it.check)
        explained = stated.reason(program.name, way.name, said.get(it.check, it.check), it)
        note = _note(here) if it.check == compare.STATUS else ""
        yield Row(program.name, way.name, it.check, title, it.bare, it.here, explained, note)


def _note(ran: Run) -> str:
    if ran.hung_in:
        return f"hung in {ran.hung_in}"
    last = [text.plain(line, 120) for line in text.lines(ran.output) if line.strip()]
    return " / ".join(last[-TAIL:])
