"""What a test program reported, and where two reports differ: pure functions over its output."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pagemerge.linux import text

STATUS = "(end)"
"""The name of the check that is the program's own end."""

MISSING = "-"
"""The result of a check that one of two runs did not come to."""

FEW = 3
"""Checks that a program did not come to which are still told one by one."""

_TAP = re.compile(
    r"(?P<failed>not )?ok (?P<number>\d+)\b *(?P<name>[^#]*)(?:# *(?P<word>\w+)\b *(?P<why>.*))?"
)
_DIRECTIVES = {"skip": "skip", "xfail": "xfail", "xpass": "xpass"}
_UFFD = re.compile(r"Testing (?P<name>.+?)\.\.\. (?P<word>done|skipped|failed)\b")
"""How uffd-unit-tests, which does not speak TAP, tells its results (kernels before 6.14)."""
_UNITTEST = re.compile(r"(?P<name>\S.*) \.\.\. (?P<word>ok|FAIL|ERROR|skipped|expected failure)\b")
_WORDS = {
    "done": "ok",
    "ok": "ok",
    "skipped": "skip",
    "failed": "not ok",
    "FAIL": "not ok",
    "ERROR": "not ok",
    "expected failure": "xfail",
}
_VOLATILE = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)? ?(ns|us|ms|s)\b|\b[0-9a-f]{8,}\b")
"""What is another with each run: addresses and times."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of a program said."""

    status: str
    """``exit 0``, ``SIGSEGV``, ``hung``."""
    checks: dict[str, str]
    """Name of the check -> ``ok``, ``not ok``, ``skip``, ``xfail``; in the order they came."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One check that ended otherwise than in the bare run."""

    check: str
    bare: str
    here: str


def parse(output: bytes) -> dict[str, str]:
    """The checks that a program reports in TAP, as unittest's ``-v``, or as uffd-unit-tests do.

    TAP's checks are known by their number, the others by name; one that comes again (a program
    that runs itself) is marked with how often it has come.
    """
    checks: dict[str, str] = {}
    come: Counter[str] = Counter()
    for line in text.lines(output):
        if (said := _said(text.plain(line, 400).strip())) is None:
            continue
        key, name, result = said
        come[key] += 1
        again = f" ({come[key]})" if come[key] > 1 else ""
        checks[f"{name}{again}"] = result
    return checks


def _said(line: str) -> tuple[str, str, str] | None:
    """What tells a check from others, its name, its result; None if the line has none."""
    if found := _TAP.fullmatch(line):
        number = found["number"]
        word = _DIRECTIVES.get((found["word"] or "").lower())
        result = "not ok" if found["failed"] else word or "ok"
        return number, number, result
    found = _UFFD.match(line) or _UNITTEST.match(line)
    if found:
        name = _VOLATILE.sub("…", found["name"].strip())
        return name, name, _WORDS[found["word"]]
    return None


def titles(output: bytes) -> dict[str, str]:
    """What TAP calls each number; without what differs from run to run."""
    found = (_TAP.fullmatch(text.plain(line, 400).strip()) for line in text.lines(output))
    return {
        it["number"]: _VOLATILE.sub("…", (it["name"].strip(" -") or it["why"] or "").strip())
        for it in found
        if it
    }


def differences(bare: Report, here: Report) -> list[Difference]:
    """Where a run ended otherwise than the bare one: its end first, then check by check.

    Of a program that ended early, the checks that never came are one difference.
    """
    found = [Difference(STATUS, bare.status, here.status)] if bare.status != here.status else []
    never = [name for name in bare.checks if name not in here.checks]
    if len(never) > FEW:
        more = f"{never[0]} and {len(never) - 1} more"
        found.append(Difference(more, "came", MISSING))
        never = []
    return [*found, *_check_by_check(bare, here, never)]


def _check_by_check(bare: Report, here: Report, never: list[str]) -> Iterator[Difference]:
    for name in never:
        yield Difference(name, bare.checks[name], MISSING)
    for name, result in here.checks.items():
        before = bare.checks.get(name, MISSING)
        if before != result:
            yield Difference(name, before, result)


def ours(
    first: list[Difference], control: list[Difference]
) -> tuple[list[Difference], list[Difference]]:
    """The differences that only an agent makes, and those that come without one, too.

    ``control`` is how a run with the companion but without an agent differs from the bare one. A
    difference that does not come again is ours all the same: a race that we lose is.
    """
    return [it for it in first if it not in control], [it for it in first if it in control]
