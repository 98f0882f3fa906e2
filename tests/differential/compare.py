"""Whether two executors said the same of a program."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

from tests.differential.pair import Said
from tests.differential.program import ADVICE, MARKS, Program, sites
from tests.differential.said import pages_of
from tests.differential.stated import stated

SEVERAL = " (several mappings)"
"""What only the bare executor adds to a refusal of mremap."""


@dataclass(frozen=True)
class Difference:
    """The first step of which they do not say the same."""

    kind: str
    """bytes, layout, flags, result, child (one that stopped early), lost, died, hung."""
    where: str
    """The executor's label of the step, and its line."""
    cause: str
    """The call that the result is of, or the last one before bytes or flags were looked at."""
    bare: str
    merged: str
    passes: bool = False
    """It counts only if the program shows it again."""

    @property
    def rough(self) -> str:
        """What differs, without the places."""
        return f"{self.kind}: {self.cause}"

    def __str__(self) -> str:
        return f"{self.kind} at {self.where}\n  bare:   {self.bare}\n  merged: {self.merged}"


def differences(program: Program, bare: Said, merged: Said) -> list[Difference]:
    """All of them, in order, less what is stated; later ones may follow from the first."""
    found = [it for it in (_fault(bare, "bare"), _fault(merged, "merged")) if it]
    if bare.lines == merged.lines and bare.ended == merged.ended:
        return found
    lines = dict(zip(sites(program), program, strict=True))
    done = ""
    for one, other in zip_longest(bare.lines, merged.lines):
        if one == other:
            done = _cause(one, lines) or done
            continue
        if one and other and one.removesuffix(SEVERAL) == other:
            if "TO" in lines.get(one.partition(" ")[0], ""):
                return found  # some of them may have moved (Linux 6.17), and not the same
            continue
        if one is None or other is None:
            break
        if one.startswith("racer") and other.startswith("racer"):
            continue  # a fault of its own
        if one.partition(" ")[0] != other.partition(" ")[0]:
            missed = one.partition(" ")[0]
            if merged.ended is None and missed in lines:  # who is gone was a child
                where, cause = f"{missed}: {lines[missed]}", _name(lines[missed])
                return [*found, Difference("child", where, cause, *_told(one, other))]
            break
        label, _, rest = one.partition(" ")
        line = lines.get(label, rest)
        entry = stated(line.lstrip(">").split(" "), one, other, " ".join(lines.values()))
        if entry is None or entry.passes:
            kind, cause = _kind(line, one, other)
            if kind == "result":
                cause = f"{_name(line)}, {cause}"
            elif kind != "flags":
                cause = f"{done}, {cause}"
            where, passes = f"{label}: {line}", entry is not None
            found.append(Difference(kind, where, cause, *_told(one, other), passes))
        elif entry.ends:
            return found
        done = _cause(one, lines) or done
    else:
        if bare.ended == merged.ended:
            return found
    where = _next_label(merged, lines)
    ended = merged.ended or ("stopped early" if bare.ended is None else "went on")
    kind = (merged.ended or f"bare {bare.ended}").split(" ")[0]
    told = (bare.ended or "went on", ended)
    # A host that is busy lets the bare one hang, too.
    passes = merged.ended is None and (bare.ended or "").startswith("hung")
    return [*found, Difference(kind, where, _name(where.partition(": ")[2]), *told, passes)]


def compare(program: Program, bare: Said, merged: Said) -> Difference | None:
    """The first difference; None if both said the same, less what is stated."""
    return next(iter(differences(program, bare, merged)), None)


def _cause(said: str, lines: dict[str, str]) -> str:
    """The call that a line tells of, if it is one."""
    line = lines.get(said.partition(" ")[0], "")
    return "" if not line or line.lstrip(">").split(" ")[0] in MARKS - {"fill"} else _name(line)


def _name(line: str) -> str:
    """A call without its places: ``madvise DONTNEED``, ``mremap MAYMOVE|TO``."""
    words = line.lstrip(">").split(" ")
    if words[0].endswith("madvise"):
        advice = next((it for it in words[1:] if it in ADVICE), "other")
        return f"{words[0].removeprefix('sys_')} {advice}"
    if words[0] in ("mmap", "mprotect") and len(words) > 3:
        return f"{words[0]} {words[4] if words[0] == 'mmap' and len(words) > 4 else words[3]}"
    if words[0] == "mremap" and len(words) > 4:
        return f"mremap {words[4]}"
    return words[0]


def _next_label(said: Said, lines: dict[str, str]) -> str:
    """The step that would have come next."""
    done = {line.partition(" ")[0] for line in said.lines}
    label = next((it for it in lines if it not in done), "the end")
    return f"{label}: {lines.get(label, '')}"


def _fault(said: Said, who: str) -> Difference | None:
    """What no run may say, whatever the other says."""
    for line in said.lines:
        if line.startswith("racer") and not line.startswith("racer lost 0"):
            return Difference("lost", "a thread's own words", who, "none may be", line)
        if line.startswith("storm") or "neither old nor zero" in line:
            return Difference("wrong", "a handler, or MADV_FREE", who, "none may be", line)
        if " hung" in line:
            return Difference("hung", "a child", who, "none may be", line)
    return None


def _kind(line: str, one: str, other: str) -> tuple[str, str]:
    """What differs, and how: ``bytes``, ``old for zero``."""
    op = one.split(" ")[1] if line.startswith("flags") or " flags" in one[:12] else line
    if op.startswith("flags"):
        x, y = _flags(one), _flags(other)
        changed = {mark for page in x.keys() | y.keys() for mark in _marks(x, y, page)}
        return "flags", " ".join(sorted(changed))
    if line.lstrip(">").split(" ")[0] not in ("look", "write"):
        return "result", f"{_result(other)} for {_result(one)}"
    a, b = pages_of(one), pages_of(other)
    pages = sorted((a.keys() | b.keys()), key=str)
    for page in pages:  # permissions first: what cannot be read has no bytes
        if a.get(page, ("none", ""))[0] != b.get(page, ("none", ""))[0]:
            return "layout", f"{b.get(page, ('none', ''))[0]} for {a.get(page, ('none', ''))[0]}"
    page = next(it for it in pages if a[it] != b[it])
    return "bytes", f"{_content(b[page][1])} for {_content(a[page][1])}"


def _result(said: str) -> str:
    """The result alone; numbers of pages and the like are much the same thing."""
    told = said.removesuffix(SEVERAL).split(" ")[2:4]
    return " ".join(it if told[0] == "errno" or len(it) < 3 else "other" for it in told)


def _content(said: str) -> str:
    """A page's bytes in a word."""
    return {"0": "zeros", "SEGV": "SEGV", "BUS": "BUS"}.get(said, "bytes")


def _flags(said: str) -> dict[int, set[str]]:
    """Page -> flags, of what ``flags`` says."""
    found = {}
    for first, end, flags in re.findall(r"(\d+)-(\d+):(\S*)", said):
        for page in range(int(first), int(end)):
            found[page] = {flags[at : at + 2] for at in range(0, len(flags), 2)}
    return found


def _marks(a: dict[int, set[str]], b: dict[int, set[str]], page: int) -> set[str]:
    """``+ac`` for what is there under the agent only, ``-nr`` for what is not."""
    one, other = a.get(page, {"none"}), b.get(page, {"none"})
    return {f"-{it}" for it in one - other} | {f"+{it}" for it in other - one}


def _told(one: str, other: str) -> tuple[str, str]:
    """Long lines without what they have in common."""
    if len(one) < 120 and len(other) < 120:
        return one, other
    a, b = one.split(" "), other.split(" ")
    at = next((it for it, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
    return "... " + " ".join(a[at : at + 8]), "... " + " ".join(b[at : at + 8])


def signature(program: Program, difference: Difference) -> str:
    """What tells one finding from another: the calls of a shrunk program, and what differs."""
    names = {_name(line) for line in program if line.lstrip(">").split(" ")[0] not in MARKS}
    told = ", ".join(sorted(names - {"mmap", "madvise MERGEABLE"}))
    return f"{difference.rough}; with {told}" if told else difference.rough
