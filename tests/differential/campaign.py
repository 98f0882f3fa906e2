"""Many programs, several pairs at a time, until there were calls enough; failures are shrunk."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.differential.compare import Difference, differences, signature
from tests.differential.draw import draw
from tests.differential.pair import Pair, agent_environment, build
from tests.differential.program import Program, calls, unmarked
from tests.differential.shrink import shrink

AGAIN = 4
"""How often a program is run again in which something was different that passes."""
PAUSE = 0.001
"""Seconds between two looks at pairs that are all busy."""


@dataclass(frozen=True)
class Finding:
    """A program of which bare and merged do not say the same."""

    name: str
    barrier: str
    program: Program
    difference: Difference
    repeats: bool
    """It does in fresh processes too; else what came before it had a part."""

    def __str__(self) -> str:
        note = "" if self.repeats else "  (not repeated in fresh processes)"
        lines = "\n".join(f"    {line}" for line in self.program)
        return f"{self.name}, barrier {self.barrier}{note}\n{lines}\n  {self.difference}"


@dataclass
class Result:
    """What a campaign came to."""

    counts: Counter[str] = field(default_factory=Counter)
    """programs, calls, page_merges, failing, died (both runs alike), passed (a difference that was
    there for a moment only, see ``stated``)."""
    findings: dict[str, Finding] = field(default_factory=dict)
    """By what tells them apart."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Programs by what differs, without the places; the first causes the others often."""
    seconds: float = 0.0

    @property
    def faults(self) -> list[str]:
        """Why this was no success; empty if it was."""
        found = [str(it) for it in self.findings.values()] or list(self.kinds)
        if self.counts["programs"] and not self.counts["page_merges"]:
            found.append("no page was merged, so nothing was tested")
        return found


class Campaign:
    """Pairs of one barrier, on one hub that runs.

    ``everything``: no program marks memory, and all that it maps is merged (``run --all``).
    """

    def __init__(
        self,
        socket: Path,
        folder: Path,
        barrier: str,
        pagemerge: list[str],
        pairs: int,
        say: Callable[[str], None],
        quiet_ms: int = 60,
        most_findings: int = 25,
        *,
        everything: bool = False,
    ) -> None:
        binary = folder / "executor"
        self.binary = binary if binary.exists() else build(folder)
        self.barrier, self.say, self.most_findings = barrier, say, most_findings
        self.env = agent_environment(socket, barrier, pagemerge, everything=everything)
        self.quiet_ms = quiet_ms
        self.pairs = [self._pair() for _ in range(pairs)]
        self.spare = self._pair()
        self.everything = everything
        self.result = Result()
        self.suspects: dict[str, tuple[str, Program, Difference]] = {}
        self.peer = subprocess.Popen(
            [str(self.binary), "--peer"], env=self.env, stdin=subprocess.PIPE
        )

    def _pair(self) -> Pair:
        return Pair(self.binary, self.env, self.quiet_ms)

    def close(self) -> None:
        """End all processes."""
        for pair in [*self.pairs, self.spare]:
            pair.stop()
        assert self.peer.stdin is not None
        self.peer.stdin.close()
        self.peer.wait()

    def run(self, programs: Iterable[tuple[str, Program]], end: Callable[[Result], bool]) -> Result:
        """Carry them out; ``end`` is asked before each. ``examine`` follows."""
        began = time.monotonic()
        source = iter(programs)
        busy: dict[int, tuple[str, Program, list[bool]]] = {}
        going = True
        while going or busy:
            for at, pair in enumerate(self.pairs):
                if at in busy or not going:
                    continue
                going = not end(self.result)
                item = next(source, None) if going else None
                if item is None:
                    going = False
                    continue
                name, program = item
                program = unmarked(program) if self.everything else program
                pair.begin(program)
                busy[at] = (name, program, [False, False])
            heard = False
            for at, (name, program, done) in list(busy.items()):
                pair = self.pairs[at]
                for side, executor in enumerate((pair.bare, pair.merged)):
                    done[side] = done[side] or executor.hear()
                if all(done):
                    heard = True
                    del busy[at]
                    self._finished(name, program, pair)
            if not heard:
                time.sleep(PAUSE)
        self.result.seconds += time.monotonic() - began
        return self.result

    def _finished(self, name: str, program: Program, pair: Pair) -> None:
        counts, bare, merged = self.result.counts, pair.bare.current, pair.merged.current
        counts["programs"] += 1
        counts["calls"] += calls(program)
        counts["page_merges"] += merged.merged
        counts["died"] += bare.ended is not None
        found = differences(program, bare, merged)
        if found or any(line.startswith("mseal") for line in program):
            pair.stop()  # what is sealed stays; after a difference nothing is sure
        if found and all(it.passes for it in found):
            # What is so in one moment of twelve shows twice in one run of a hundred and fifty.
            for _ in range(AGAIN):
                told = differences(program, *self.spare.run(program, fresh=True))
                again = {it.rough for it in told}
                found = [it for it in found if it.rough in again]
            counts["passed"] += not found
        if not found:
            return
        counts["failing"] += 1
        new = {it.rough for it in found} - self.result.kinds.keys()
        if new:
            self.say(f"{name}, barrier {self.barrier}: {'; '.join(sorted(new))}")
        self.result.kinds.update({it.rough for it in found})
        first = next((it for it in found if it.kind != "result"), None)
        for difference in found:
            if difference.kind == "result" or difference is first:
                self.suspects.setdefault(difference.rough, (name, program, difference))

    def examine(self, until: float) -> None:
        """Shrink the first program of each kind of difference, the most frequent first."""
        order = [it for it, _ in self.result.kinds.most_common() if it in self.suspects]
        for rough in order[: self.most_findings]:
            self._examine(*self.suspects[rough], shrinking=time.monotonic() < until)

    def _examine(
        self, name: str, program: Program, difference: Difference, shrinking: bool
    ) -> None:
        """Shrink it to what shows this difference still, in fresh processes."""
        last = [difference]

        def fails(tried: Program) -> bool:
            told = differences(tried, *self.spare.run(tried, fresh=True))
            alike = [it for it in told if it.rough == difference.rough]
            last[:1] = alike[:1] or last
            return bool(alike)

        repeats = any(fails(program) for _ in range(3 if shrinking else 1))
        if repeats and shrinking:
            program = shrink(program, fails)
        finding = Finding(name, self.barrier, program, last[0], repeats)
        key = signature(program, last[0]) if repeats else f"once: {difference.rough}"
        if key not in self.result.findings:
            self.result.findings[key] = finding
            self.say(f"DIFFERS {key}\n{finding}")


def drawn(seed: int) -> Iterator[tuple[str, Program]]:
    """Programs without end."""
    number = 0
    while True:
        yield f"seed {seed}, program {number}", draw(seed, number)
        number += 1
