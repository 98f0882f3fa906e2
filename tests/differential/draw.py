"""Programs by chance: the same seed and number, the same program."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.differential.program import ADVICE, Program

WINDOW = 96
"""Pages of the arena that programs use."""

GENTLE = ["NORMAL", "RANDOM", "SEQUENTIAL", "WILLNEED", "COLD", "PAGEOUT", "DONTDUMP", "DODUMP"]
FORKING = ["WIPEONFORK", "KEEPONFORK", "DONTFORK", "DOFORK"]
EMPTYING = ["DONTNEED", "DONTNEED_LOCKED", "FREE", "REMOVE", "GUARD_INSTALL", "GUARD_REMOVE"]
FILLING = ["POPULATE_READ", "POPULATE_WRITE", "COLLAPSE", "HUGEPAGE", "NOHUGEPAGE"]
ODD_ADVICE = ["5", "7", "26", "77", "104", "-1", "99"]
PROTECTIONS = ["none", "r", "rw", "rw", "rwx", "rx"]
ODD_LENGTHS = ["0", "n1+1", "n2-1", "1", "-1", "-4096", "-8192", "0x7fffffffffff", "0x800000000000"]
ODD_LENGTHS += ["0xffffffff00000000", "0x8000000000000000", "0xeffffffff000", "0xfffff00000000000"]
WRAPPING = ["0", "n1+1", "n2-1", "1", "-1", "-4096", "-8192", "0xffffffff00000000"]
"""For madvise and mlock: by others they go on to the end of memory, the executor's too."""
ODD_PLACES = ["p3+1", "p5+2048", "0xffff800000000000", "-4096", "0x7ffffffff000", "-1", "p2-1"]
Step = Callable[[], list[str]]


class Draw:
    """One program in the making, and a rough idea of what is mapped by then."""

    def __init__(self, seed: int, number: int) -> None:
        self.random = random.Random(f"{seed}:{number}")
        self.mapped: list[int] = []
        """Pages that are, if no call has failed."""
        self.slots = 0
        self.racing = self.watching = self.storm = self.huge = False

    def program(self) -> Program:
        """All of it."""
        chance = self.random
        manner = chance.random()
        lines = []
        self.racing = manner < 0.12
        self.watching = 0.12 <= manner < 0.22
        self.storm, sealing = 0.22 <= manner < 0.26, 0.26 <= manner < 0.28
        self.huge = 0.28 <= manner < 0.3
        if self.huge:
            lines += self._large()
        for _ in range(chance.choice([1, 1, 2, 3])):
            lines += self._prepared()
        if self.racing:
            lines.append("race")
        if self.watching:
            lines.append(f"uffd_open {chance.choice(['0', '0', '0x8000', '0x2000'])}")
        if self.storm:
            lines.append(f"storm {chance.choice([150, 400, 1000])}")
        if not self.racing:
            lines.append("settle")
        steps = self._steps(sealing)
        kinds, weights = [it for it, _ in steps], [it for _, it in steps]
        for _ in range(chance.choice([4, 8, 14, 24])):
            (step,) = chance.choices(kinds, weights)
            lines += step()
            if chance.random() < 0.4:
                lines.append("look")
        return tuple(line for line in lines if line)

    def _steps(self, sealing: bool) -> list[tuple[Step, float]]:
        calls: list[tuple[Step, float]] = [
            (self._map, 8),
            (self._unmap, 6),
            (self._remap, 10),
            (self._protect, 8),
            (self._advise, 20),
            (self._advise_self, 5),
            (self._lock, 5),
            (self._small, 6),
            (self._odd, 8),
            (self._write, 14),
            (self._transfer, 4),
            (self._child, 5),
            (self._handler, 2),
            (self._settle, 11),
            (self._futex, 2),
        ]
        if self.watching:
            calls.append((self._watch, 35))
        if self.huge:
            calls.append((self._squeeze, 12))
        if sealing:
            calls.append((self._seal, 25))
        return calls

    # Where.

    def _range(self) -> tuple[str, str]:
        """Some pages: whole mappings and parts, now and then across them and holes."""
        chance = self.random
        if self.mapped and chance.random() < 0.93:
            first = chance.choice(self.mapped)
            while chance.random() < 0.5 and first - 1 in self.mapped:
                first -= 1
            pages = 1
            while pages < 48 and first + pages in self.mapped and chance.random() < 0.85:
                pages += 1
            if chance.random() < 0.12:
                pages += chance.randint(1, 12)
        else:
            first, pages = chance.randrange(WINDOW - 8), chance.choice([1, 2, 8, 30])
        return f"p{first}", f"n{min(pages, WINDOW - first)}"

    def _place(self) -> str:
        return f"p{self.random.choice(self.mapped or [0])}"

    def _note(self, where: str, length: str, there: bool) -> None:
        first, pages = int(where[1:]), int(length[1:])
        touched = set(range(first, min(first + pages, WINDOW)))
        found = set(self.mapped)
        self.mapped = sorted(found | touched if there else found - touched)

    # What programs are made of.

    def _fill(self, where: str, length: str) -> str:
        chance = self.random
        first = 97 + chance.randrange(16)
        return f"fill {where} {length} {first} {chance.choice([0, 0, 1])}"

    def _prepared(self) -> list[str]:
        chance = self.random
        pages = chance.choice([2, 4, 8, 8, 16, 32])
        where, length = f"p{chance.randrange(WINDOW - pages)}", f"n{pages}"
        flags = chance.choice(["PRIVATE|ANON|FIXED"] * 4 + ["PRIVATE|ANON|FIXED|NORESERVE"])
        self._note(where, length, True)
        lines = [f"mmap {where} {length} rw {flags} -1 0", self._fill(where, length)]
        lines.insert(chance.choice([1, 2]), f"madvise {where} {length} MERGEABLE")
        return lines

    def _large(self) -> list[str]:
        """Room for a huge page, of which the other steps use the beginning."""
        advice = self.random.choice(["HUGEPAGE", "COLLAPSE", "NOHUGEPAGE"])
        self._note("p0", f"n{WINDOW}", True)
        return [
            "window 600",
            "mmap p0 n560 rw PRIVATE|ANON|FIXED -1 0",
            f"madvise p0 n560 {advice}",
            "madvise p0 n560 MERGEABLE",
            "fill p0 n560 97 0",
        ]

    def _squeeze(self) -> list[str]:
        """Advice for all of it."""
        advice = ["HUGEPAGE", "COLLAPSE", "NOHUGEPAGE", "DONTNEED", "COLD", "PAGEOUT"]
        return [f"madvise p0 n560 {self.random.choice(advice)}"]

    def _settle(self) -> list[str]:
        where, length = self._range()
        chance = self.random
        lines = []
        if chance.random() < 0.5:
            lines.append(self._fill(where, length))
        if chance.random() < 0.4:
            lines.append(f"madvise {where} {length} MERGEABLE")
        if chance.random() < (0.7 if self.racing else 0.15):
            return [*lines, f"nap {chance.choice([500, 5000, 30000])}"]
        return [*lines, "settle"]

    def _map(self) -> list[str]:
        chance = self.random
        where, length = self._range()
        kind = chance.choice(["PRIVATE|ANON"] * 6 + ["SHARED|ANON", "PRIVATE", "SHARED"])
        if self.racing:  # memory with two addresses would change under the thread that writes
            kind = kind.replace("SHARED", "PRIVATE")
        fd = "-1" if "ANON" in kind else chance.choice(["file", "shared"])
        how = chance.choice(["FIXED"] * 5 + ["FIXED|NOREPLACE", "NOREPLACE", "", ""])
        more = chance.choice(["", "", "", "NORESERVE", "POPULATE", "STACK", "LOCKED"])
        protection = chance.choice(["rw", "rw", "rw", "rw", "r", "none", "rwx"])
        if not how and chance.random() < 0.5:
            where = "0"
        flags = "|".join(it for it in (kind, how, more) if it)
        offset = chance.choice(["0", "n1"]) if fd != "-1" else "0"
        if "NOREPLACE" in how:
            free = [it for it in range(WINDOW - 4) if it not in self.mapped]
            where, length = f"p{chance.choice(free or [0])}", f"n{chance.randint(1, 4)}"
        lines = [f"mmap {where} {length} {protection} {flags} {fd} {offset}"]
        if where.startswith("p") and ("FIXED" in how or "NOREPLACE" in how):
            self._note(where, length, True)
        else:
            where = "s0"
        if chance.random() < 0.6:
            lines.append(self._fill(where, length))
        if chance.random() < 0.6:
            lines.append(f"madvise {where} {length} MERGEABLE")
        return lines

    def _unmap(self) -> list[str]:
        where, length = self._range()
        self._note(where, length, False)
        call = self.random.choice(["munmap"] * 5 + ["sys_munmap"])
        return [f"{call} {where} {length}"]

    def _remap(self) -> list[str]:
        chance = self.random
        where, length = self._range()
        pages = int(length[1:])
        more, less = [pages + 1, pages + 8, 2 * pages], max(1, pages // 2)
        new = chance.choice([pages, pages, pages, *more, less])
        how = chance.choice(["0", "MAYMOVE", "MAYMOVE|TO", "MAYMOVE|TO", "MAYMOVE|DONTUNMAP"])
        how = chance.choice([how] * 5 + ["MAYMOVE|TO|DONTUNMAP", "TO", "DONTUNMAP", "8"])
        if self.storm and "TO" in how:
            how = "MAYMOVE"  # bare, signals let the kernel refuse to move several mappings
        to = f"p{chance.randrange(WINDOW - min(new, 90))}" if "TO" in how else "0"
        old = chance.choice([length] * 12 + ["0"])
        if old == length and "DONTUNMAP" not in how and (how != "0" or new < pages):
            if "TO" in how:
                self._note(where, length, False)
            elif new < pages:
                self._note(f"p{int(where[1:]) + new}", f"n{pages - new}", False)
        if "TO" in how:
            self._note(to, f"n{new}", True)
        elif how == "0" and new > pages:
            self._note(where, f"n{new}", True)
        return [f"mremap {where} {old} n{new} {how} {to}"]

    def _protect(self) -> list[str]:
        chance = self.random
        where, length = self._range()
        wanted = chance.choice(PROTECTIONS)
        if chance.random() < 0.15:
            key = chance.choice(["-1", "0", "1", "15"])
            return [f"pkey_mprotect {where} {length} {wanted} {key}"]
        call = chance.choice(["mprotect"] * 6 + ["sys_mprotect"])
        return [f"{call} {where} {length} {wanted}"]

    def _advice(self) -> str:
        chance = self.random
        several = [GENTLE, FORKING, EMPTYING, EMPTYING, FILLING, ["MERGEABLE", "UNMERGEABLE"]]
        if chance.random() < 0.05:
            return chance.choice(ODD_ADVICE)
        return chance.choice(chance.choice(several))

    def _advise(self) -> list[str]:
        where, length = self._range()
        advice = self._advice()
        usual = advice in ADVICE and advice != "FREE"
        call = self.random.choice(["madvise"] * 6 + ["sys_madvise"]) if usual else "madvise"
        return [f"{call} {where} {length} {advice}"]

    def _advise_self(self) -> list[str]:
        chance = self.random
        parts = [" ".join(self._range()) for _ in range(chance.choice([1, 1, 2, 3]))]
        advice = self._advice()
        while advice == "FREE":
            advice = self._advice()
        via, flags = chance.choice(["libc", "syscall"]), chance.choice(["0"] * 9 + ["1"])
        return [f"pmadvise {advice} {via} {flags} {' '.join(parts)}"]

    def _lock(self) -> list[str]:
        chance = self.random
        where, length = self._range()
        ranged = [f"mlock {where} {length}", f"mlock2 {where} {length} {chance.choice('012')}"]
        ranged += [f"munlock {where} {length}"] * 3
        whole = ["mlockall CURRENT", "mlockall FUTURE", "munlockall", "mlockall CURRENT|ONFAULT"]
        return [chance.choice([*ranged, *ranged, *whole])]

    def _seal(self) -> list[str]:
        where, length = self._range()
        return [f"mseal {where} {length} {self.random.choice(['0', '0', '0', '1'])}"]

    def _small(self) -> list[str]:
        chance = self.random
        where, length = self._range()
        node, flag = chance.choice("012"), chance.choice("0127")
        how = chance.choice(["ASYNC", "SYNC", "SYNC|INVALIDATE", "5"])
        return [
            chance.choice(
                [
                    f"msync {where} {length} {how}",
                    f"mincore {where} {length}",
                    f"remap_file_pages {where} {length} 0 1 0",
                    f"name {where} {length}",
                    f"mbind {where} {length} {chance.choice('01239')} {node} {flag}",
                    f"getpol {where}",
                    f"pkey_alloc 0 {chance.choice('0127')}",
                    f"prctl_merge {chance.choice('0123')}",
                ]
            )
        ]

    def _odd(self) -> list[str]:
        """Arguments that no program would give."""
        chance = self.random
        where, length = self._range()
        if chance.random() < 0.6:
            length = chance.choice(ODD_LENGTHS)
        else:
            where = chance.choice(ODD_PLACES)
        advice = self._advice()
        while advice == "FREE":
            advice = self._advice()
        wraps = length if length in WRAPPING or length[0] == "n" else chance.choice(WRAPPING)
        other = chance.choice(["n1", "0", *ODD_LENGTHS])
        to = chance.choice([*ODD_PLACES, self._place()])
        flags = chance.choice(["PRIVATE|ANON|FIXED", "PRIVATE", "PRIVATE|FIXED", "FIXED|ANON", "0"])
        fd = chance.choice(["-1", "999", "file"])
        options = [
            f"munmap {where} {length}",
            f"mprotect {where} {length} {chance.choice([*PROTECTIONS, '0x1000000', '64'])}",
            f"madvise {where} {wraps} {advice}",
            f"pmadvise {advice} syscall 0 {where} {wraps}",
            f"mlock {where} {wraps}",
            f"munlock {where} {wraps}",
            f"msync {where} {wraps} SYNC",
            f"mincore {where} {wraps}",
            f"mremap {where} {length} {other} {chance.choice(['0', 'MAYMOVE'])} 0",
            f"mremap {where} {length} {other} MAYMOVE|TO {to}",
            f"mremap {self._place()} n2 n2 MAYMOVE|TO {to}",
            f"mmap {where} {length} rw {flags} {fd} {chance.choice(['0', '1', 'n1'])}",
            f"mmap {self._place()} n2 rw PRIVATE|FIXED {chance.choice(['-1', '999'])} 0",
            f"mbind {where} {length} 2 1 0",
        ]
        return [chance.choice(options)]

    def _write(self) -> list[str]:
        chance = self.random
        where, length = self._range()
        if self.slots and chance.random() < 0.1:
            where = "s0"
        if chance.random() < 0.4:
            return [f"{chance.choice(['poke', 'peek'])} {where} {chance.randrange(256)}"]
        return [self._fill(where, length)]

    def _transfer(self) -> list[str]:
        where, length = self._range()
        return [f"{self.random.choice(['receive', 'send', 'vmwrite'])} {where} {length}"]

    def _futex(self) -> list[str]:
        chance, where = self.random, self._place()
        wait = f"futex_wait {where} {chance.choice(['0', '0x61616161', '7'])}"
        if self.racing or self.storm:
            return [f"futex_wake {where}"]  # a signal ends a wait
        if chance.random() < 0.5:
            return [chance.choice([wait, f"futex_wake {where}"])]
        return [f"futex_block {where}", chance.choice(["settle", ""]), "futex_release"]

    def _inner(self) -> list[str]:
        """Steps of a child or a handler."""
        chance = self.random
        steps = [self._unmap, self._remap, self._protect, self._advise, self._advise_self]
        steps += [self._lock, self._write, self._transfer, self._map]
        lines: list[str] = []
        before = list(self.mapped)
        for _ in range(chance.choice([0, 1, 2, 4])):
            lines += chance.choice(steps)()
        self._kept = list(self.mapped)
        self.mapped = before
        return [f">{line}" for line in [*lines, "look"]]

    def _child(self) -> list[str]:
        how = self.random.choice(["fork", "fork", "_Fork", "clone", "vfork", "spawn"])
        if how == "spawn":
            return ["spawn"]
        inner = self._inner()
        if how == "vfork":
            self.mapped = self._kept
        elif self.random.random() < 0.3:
            inner.append(">flags")
        return [how, *inner]

    def _handler(self) -> list[str]:
        inner = self._inner()
        self.mapped = self._kept
        return ["signal", *inner]

    def _watch(self) -> list[str]:
        chance = self.random
        where, length = self._range()
        register = f"uffd_register {where} {length} {chance.choice(['1', '1', '2', '3', '0'])}"
        source = f"{self._place()} n{chance.choice([1, 2])}"
        return [
            chance.choice(
                [
                    register,
                    register,
                    f"uffd_unregister {where} {length}",
                    f"uffd_copy {where} n{chance.choice([1, 1, 4])} {97 + chance.randrange(4)}",
                    f"uffd_zero {where} {length}",
                    f"uffd_move {where} {source} {chance.choice('001')}",
                    f"uffd_protect {where} {length} {chance.choice('0112')}",
                    chance.choice(["uffd_close", "settle"]),
                ]
            )
        ]


def draw(seed: int, number: int) -> Program:
    """Program ``number`` of a seed."""
    return Draw(seed, number).program()
