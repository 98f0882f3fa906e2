"""What the first read and the first write of a merged page cost, beside a page of kernel KSM.

Two processes with the same memory, merged; then one of them touches page after page, a word each.
Times include some 50 ns for the clock. "again" is a page that is the process's own by then. A table
for people, then one line of JSON: nanoseconds, median and mean. (The kernel maps neighbours of a
stable page of ours with the first read of one, so its median says little.)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from lab.scene import Scene, fill, held_user_engine, until_merged, until_merged_by_kernel, workers
from tests.support import ksm

from pagemerge.demo.dialog import Child
from pagemerge.model import PAGE_SIZE

MERGING = 60.0
"""Seconds that merging may take."""

Figures = dict[str, dict[str, float]]


def touch(child: Child, count: int) -> Figures:
    """The figures of a process whose memory has just been merged."""
    return {
        "first_read": child.ask("touch", verb="read", first=0, count=count),
        "write_after_read": child.ask("touch", verb="write", first=0, count=count),
        "write_unread": child.ask("touch", verb="write", first=count, count=count),
        "write_again": child.ask("touch", verb="write", first=0, count=count),
    }


def user_engine(scene: Scene) -> Figures:
    """Pages that our engine has merged."""
    with held_user_engine(scene, looks=2) as (own, children):
        own.release()
        deadline = time.monotonic() + MERGING
        until_merged(own, [child.pid for child in children], scene.savings, deadline)
        own.hold()  # nothing is merged again meanwhile
        return touch(children[0], scene.pages // 2)


def kernel_engine(scene: Scene) -> Figures:
    """Pages that ksmd has merged."""
    with ksm.borrowed() as kernel, workers(scene, "kernel", dict(os.environ)) as children:
        fill(children)
        kernel.start(**ksm.FLAT_OUT)
        until_merged_by_kernel(kernel, scene.savings, time.monotonic() + MERGING)
        kernel.write("run", ksm.STOP)
        return touch(children[0], scene.pages // 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="MiB, of both processes together")
    args = parser.parse_args()
    scene = Scene("clones", 2, args.size * 2**20 // PAGE_SIZE // 2)
    found = {"user": user_engine(scene)}
    if reason := ksm.lacks():
        print(f"kernel KSM is left out: {reason}", file=sys.stderr)
    else:
        found["kernel"] = kernel_engine(scene)
    for engine, figures in found.items():
        for name, it in figures.items():
            words = name.replace("_", " ")
            print(f"{engine:<8}{words:<20}median {it['median']:6} ns   mean {it['mean']:8.1f} ns")
    print(json.dumps({"nanoseconds": found}))


if __name__ == "__main__":
    main()
