"""``python -m tests.selftests``: public test programs bare and beside an agent; what differs.

The kernel's mm selftests come from Debian's linux-source package, CPython's tests with the
interpreter or from Debian's package; both go into a cache, and nothing is installed.
Exit status: 0 no difference but the stated ones, 1 some, 77 this host cannot do it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pagemerge.errors import PagemergeError, Unsupported, UsageError
from tests.conftest import lacks_cc, lacks_root, lacks_uffd
from tests.selftests import build, fetch, programs, report
from tests.selftests.programs import Program
from tests.selftests.trial import Result, Trial
from tests.selftests.ways import WAYS, Place

CACHE = Path(__file__).parents[2] / ".cache/selftests"
LISTS = ("kernel", "cpython")
OTHERS = [way.name for way in WAYS[1:]]


def arguments(argv: list[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.selftests",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", choices=LISTS, action="append", help="which (default: both)")
    parser.add_argument("--only", action="append", help="programs whose names hold this")
    parser.add_argument("--way", choices=OTHERS, action="append", help="which (default: all)")
    parser.add_argument("--barrier", default="auto", help="of the agent (default auto)")
    parser.add_argument("--package", help="a linux-source package (default: the newest)")
    parser.add_argument("--python", default="/usr/bin/python3", help="whose tests are run")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where packages are unpacked")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--report", type=Path, help="put the result into that Markdown page")
    return parser.parse_args(argv)


def gathered(args: argparse.Namespace, result: Result) -> list[Program]:
    """The programs to run; what is left out is noted in ``result``.

    Raises ``Unsupported`` if none of the lists can be had, ``UsageError`` if no name fits.
    """
    lists: dict[str, Callable[[], list[Program]]] = {
        "kernel": lambda: _kernel(args, result),
        "cpython": lambda: programs.cpython(args.cache, args.python),
    }
    found, lacks = [], []
    for name in args.list or LISTS:
        try:
            found += lists[name]()
        except Unsupported as lack:
            lacks.append(str(lack))
            result.left_out[name] = str(lack)
    if not found:
        raise Unsupported("; ".join(lacks))
    chosen = [it for it in found if not args.only or any(word in it.name for word in args.only)]
    if not chosen:
        names = ", ".join(it.name for it in found)
        raise UsageError(f"no program is named {' or '.join(args.only)}: there are {names}")
    return chosen


def _kernel(args: argparse.Namespace, result: Result) -> list[Program]:
    tree = fetch.kernel_source(args.cache, args.package)
    made = build.programs(args.cache, tree, len(os.sched_getaffinity(0)))
    result.left_out.update(programs.left_out(made))
    for name in programs.unknown(made):
        result.left_out[name] = "is new: decide about it in tests/selftests/programs.py"
    return programs.kernel(made)


def tried(args: argparse.Namespace) -> Result:
    """Gather, build, run. Raises ``PagemergeError``."""
    started = time.monotonic()
    for lack in (lacks_cc(), lacks_root(), lacks_uffd()):
        if lack is not None:
            raise Unsupported(lack)
    args.cache = args.cache.absolute()
    ways = [way for way in WAYS[1:] if way.name in (args.way or OTHERS)]
    with tempfile.TemporaryDirectory(prefix="pagemerge-selftests-") as folder:
        work = Path(folder) / "work"
        work.mkdir()
        place = Place(
            build.companions(args.cache / "companions"), Path(folder) / "hub", args.barrier
        )
        with Trial(place, work, lambda line: print(line, file=sys.stderr, flush=True)) as trial:
            result = trial.run(gathered(args, trial.result), ways)
    result.seconds = time.monotonic() - started
    return result


def main() -> int:
    """Run it."""
    given = sys.argv[1:]
    args = arguments(given)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell has its background jobs ignore it, and so would the programs; some test signals.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = tried(args)
    except PagemergeError as error:
        print(f"selftests: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("selftests: interrupted", file=sys.stderr)
        return 130
    if args.report is not None:
        command = f'make selftests ARGS="{" ".join(given)}"'
        report.put(args.report, report.section(result, command))
    print(report.as_json(result) if args.json else "\n".join(report.lines(result)))
    return 1 if result.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
