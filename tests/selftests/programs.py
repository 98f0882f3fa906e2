"""Which public programs are run, which are not, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pagemerge.errors import Unsupported
from tests.selftests import build, fetch


@dataclass(frozen=True, slots=True)
class Program:
    """One program: ``argv``, and how long it may take."""

    name: str
    argv: tuple[str, ...]
    deadline: float
    env: Mapping[str, str] = field(default_factory=dict)
    ways: Sequence[str] = ()
    """Names of the ways in which it is run; empty: each."""


KERNEL = (
    *("cow", "droppable", "gup_longterm", "madv_populate", "map_fixed_noreplace", "map_populate"),
    *("mdwe_test", "memfd_secret", "migration", "mkdirty", "mlock-random-test", "mlock2-tests"),
    *("mrelease_test", "mremap_dontunmap", "mremap_test", "mseal_test", "seal_elf"),
    *("pagemap_ioctl", "pkey_sighandler_tests_64", "protection_keys_64", "soft-dirty"),
    *("uffd-unit-tests", "va_high_addr_switch", "thuge-gen"),
    # The whole run ends with the first test that fails: here are the others again, by name.
    *(f"uffd-unit-tests -f {name}" for name in ("move-pmd", "wp-fork", "wp-unpopulated")),
    *(f"uffd-unit-tests -f {name}" for name in ("sigbus", "events", "poison", "minor")),
    *("uffd-stress anon 20 16", "uffd-stress shmem 20 16", "uffd-stress shmem-private 20 16"),
)
"""The kernel's programs and their arguments, as its run_vmtests.sh has them."""

CPYTHON = ("test.test_mmap", "test.test_multiprocessing_fork")

CPYTHON_ALL = (
    *("test.test_ctypes", "test.test_faulthandler", "test.test_gc", "test.test_io"),
    *("test.test_multiprocessing_forkserver", "test.test_multiprocessing_spawn"),
    *("test.test_posix", "test.test_resource", "test.test_signal", "test.test_socket"),
    *("test.test_subprocess", "test.test_threading", "test.test_tracemalloc"),
)
"""CPython's tests that are run in the way `all` only: they mark no memory, and map little."""

WITHOUT = {
    "test.test_socket": (
        "import unittest; from test import test_socket as it; "
        "del it.ThreadedVSOCKSocketStreamTest; unittest.main(it, verbosity=2)"
    )
}
"""Tests of CPython's that are run by these words: without a class that waits for ever on some
virtual machines (sockets of the host, vsock(7)), bare too."""

DEADLINE = 40.0
"""Seconds for a program that says nothing else."""

DEADLINES = {"pagemap_ioctl": 90.0, "uffd-unit-tests": 120.0}

_HUGETLB = "needs huge pages reserved on the host (hugetlbfs)"
_KSM = "drives kernel KSM, which is the whole host's"
_LOAD = "is a load or a measurement, and reports nothing that could differ"
LEFT_OUT = {
    **dict.fromkeys(("ksm_tests", "ksm_functional_tests"), _KSM),
    **dict.fromkeys(
        (
            *("hugepage-mmap", "hugepage-mremap", "hugepage-shm", "hugepage-vmemmap"),
            *("hugetlb-madvise", "hugetlb_dio", "hugetlb_fault_after_madv", "hugetlb_madv_vs_map"),
            *("map_hugetlb", "write_to_hugetlbfs", "compaction_test"),
        ),
        _HUGETLB,
    ),
    "hugetlb-read-hwpoison": "takes pages of the host out of use for good",
    "hugetlb-soft-offline": "takes pages of the host out of use for good",
    "gup_test": "needs the kernel's own test driver (CONFIG_GUP_TEST)",
    "hmm-tests": "needs the kernel's own test driver (CONFIG_TEST_HMM)",
    "khugepaged": "changes the host's settings of huge pages, and needs one that nobody else uses",
    "split_huge_page_test": "splits huge pages of other processes, and drops the host's caches",
    "on-fault-limit": "wants to be another user's, whom the hub does not serve",
    "transhuge-stress": _LOAD,
    "virtual_address_range": "takes the whole address space, by minutes of work, and reports "
    "nothing but its end",
    "protection_keys_32": "is a 32-bit program, into which nothing of ours can be preloaded",
    "pkey_sighandler_tests_32": "is a 32-bit program, into which nothing of ours can be preloaded",
    "LTP": "is not a Debian package",
}
"""Program -> why it is not run."""


def kernel(made: Path) -> list[Program]:
    """The kernel's programs that were built."""
    found = []
    for words in KERNEL:
        name, *arguments = words.split()
        if (made / name).exists():
            argv = (str(made / name), *arguments)
            found.append(Program(words, argv, DEADLINES.get(name, DEADLINE)))
    return found


def left_out(made: Path) -> dict[str, str]:
    """Program -> why it is not run, those that could not be built among them."""
    unbuilt = dict.fromkeys(build.not_built(made), "cannot be built here")
    return {**unbuilt, **LEFT_OUT}


def unknown(made: Path) -> list[str]:
    """Programs of this kernel that nobody has decided about."""
    known = {words.split()[0] for words in KERNEL} | LEFT_OUT.keys()
    built = (it.name for it in made.iterdir() if it.is_file() and it.stat().st_mode & 0o100)
    return sorted(name for name in built if name not in known)


def cpython(cache: Path, python: str) -> list[Program]:
    """CPython's own tests for an interpreter; from Debian's package where it came without them.

    Raises ``Unsupported`` where they cannot be had.
    """
    env: dict[str, str] = {}
    names = (*CPYTHON, *CPYTHON_ALL)
    if not all(_finds(python, name, env) for name in names):
        python, env = _packaged_tests(cache, python)
    return [
        Program(
            f"CPython {name}",
            (
                python,
                *(("-c", WITHOUT[name]) if name in WITHOUT else ("-m", "unittest", "-v", name)),
            ),
            400.0,
            env,
            () if name in CPYTHON else ("all",),
        )
        for name in names
    ]


def _packaged_tests(cache: Path, python: str) -> tuple[str, dict[str, str]]:
    """An interpreter that has the tests of Debian's package, and the environment it needs."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = _said([python, "-c", ask])
    package = f"libpython{version}-testsuite"
    library = fetch.unpacked(cache, [package], package) / f"usr/lib/python{version}"
    # Debian leaves the helpers of the tests with the interpreter: a package lies in one folder.
    for package_of in ("test", "ctypes"):
        ask = f"import {package_of}; print(*{package_of}.__path__)"
        helpers = _said([python, "-c", ask], {"PYTHONPATH": ""})
        shutil.copytree(helpers, library / package_of, dirs_exist_ok=True)
    env = {"PYTHONPATH": str(library)}
    missing = [name for name in (*CPYTHON, *CPYTHON_ALL) if not _finds(python, name, env)]
    if missing:
        raise Unsupported(f"{package} and {python} have no {', '.join(missing)}")
    return _isolated(library / "environment", python, library / "test", version), env


def _isolated(folder: Path, python: str, tests: Path, version: str) -> str:
    """An environment whose interpreter has the tests even where it ignores PYTHONPATH (``-I``)."""
    made = folder / "bin/python3"
    if not made.exists():
        _said([python, "-m", "venv", "--without-pip", str(folder)])
    if not made.exists():
        raise Unsupported(f"{python} makes no environment: install python{version}-venv")
    line = f"import test; test.__path__.insert(0, {str(tests)!r})\n"
    (folder / f"lib/python{version}/site-packages/tests.pth").write_text(line)
    return str(made)


def _finds(python: str, name: str, env: Mapping[str, str]) -> bool:
    ask = f"import importlib.util; print(importlib.util.find_spec({name!r}) is not None)"
    return _said([python, "-c", ask], env) == "True"


def _said(argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """What a program prints; raises ``Unsupported`` if there is none."""
    try:
        got = subprocess.run(
            argv, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise Unsupported(f"{argv[0]} cannot be run: {error.strerror}") from error
    return got.stdout.strip()
