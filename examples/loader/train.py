"""Train with eight processes that load data: ``python train.py FILE``. Needs numpy.

As a DataLoader of PyTorch does with ``multiprocessing_context="spawn"``, each worker loads the
data for itself and makes batches of it. A line on stdin starts an epoch of so many batches. Each
epoch ends with a line of JSON: seconds, the 99th percentile of the wait for a batch, a checksum.
"""

import json
import multiprocessing
import multiprocessing.queues
import sys
import time
import zlib

import numpy as np

WORKERS, BATCH = 8, 32
AHEAD = 2 * WORKERS
"""Batches that are made in advance."""
Queue = multiprocessing.queues.Queue


def work(path: str, todo: "Queue[int]", done: "Queue[tuple[int, np.ndarray]]") -> None:
    images = np.load(path)
    labels = [f"label {number % 1000}" for number in range(len(images))]
    done.put((-1, images[:0]))  # ready
    while (number := todo.get()) >= 0:
        random = np.random.default_rng(number)
        chosen = random.integers(0, len(images), BATCH)
        batch = images[chosen].astype(np.float32) / 255
        batch *= random.random((BATCH, 1, 1, 1), np.float32)
        done.put((number + sum(len(labels[it]) for it in chosen) * 10**6, batch))


def epoch(batches: int, todo: "Queue[int]", done: "Queue[tuple[int, np.ndarray]]") -> dict:
    began, waits, sums = time.perf_counter(), [], []
    for number in range(min(AHEAD, batches)):
        todo.put(number)
    for number in range(AHEAD, AHEAD + batches):
        if number < batches:
            todo.put(number)
        asked = time.perf_counter()
        tag, batch = done.get()
        waits.append(time.perf_counter() - asked)
        sums.append(zlib.crc32(batch.tobytes(), tag & 0xFFFFFFFF))
    return {
        "batches": batches,
        "seconds": time.perf_counter() - began,
        "p99_seconds": float(np.percentile(waits, 99)),
        "sum": sum(sums),
    }


def main() -> None:
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    for _ in range(WORKERS):
        context.Process(target=work, args=(sys.argv[1], todo, done), daemon=True).start()
    for _ in range(WORKERS):
        done.get()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(epoch(int(line), todo, done)), flush=True)


if __name__ == "__main__":
    main()
