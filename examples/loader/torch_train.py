"""Train with eight workers of a DataLoader: ``python torch_train.py FILE``. Needs torch (PyTorch).

The workers are spawned, so each has the dataset for itself. A line on stdin starts an epoch of so
many batches. Each epoch ends with a line of JSON: seconds, the 99th percentile of the wait for a
batch, a checksum.
"""

import json
import sys
import time
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

WORKERS, BATCH = 8, 32


class Images(Dataset):
    """Images and their labels, as a program keeps them that knows nothing of its workers."""

    def __init__(self, path: str) -> None:
        self.images = np.load(path)
        self.labels = [f"label {number % 1000}" for number in range(len(self.images))]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.images[number]).float() / 255, len(self.labels[number])


class Chosen(Sampler):
    """The images of an epoch: the same for epochs of the same length."""

    def __init__(self, images: int) -> None:
        self.images, self.count = images, 0

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng(self.count).integers(0, self.images, self.count).tolist())

    def __len__(self) -> int:
        return self.count


def epoch(loader: DataLoader, batches: int) -> dict:
    loader.sampler.count = batches * BATCH
    began, waits, total = time.perf_counter(), [], 0
    asked = began
    for images, labels in loader:
        waits.append(time.perf_counter() - asked)
        total += zlib.crc32(images.numpy().tobytes(), int(labels.sum()))
        asked = time.perf_counter()
    return {
        "batches": batches,
        "seconds": time.perf_counter() - began,
        "p99_seconds": float(np.percentile(waits, 99)),
        "sum": total,
    }


def main() -> None:
    torch.set_num_threads(1)
    data = Images(sys.argv[1])
    loader = DataLoader(
        data,
        BATCH,
        sampler=Chosen(len(data)),
        num_workers=WORKERS,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    epoch(loader, WORKERS)  # starts the workers
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(epoch(loader, int(line))), flush=True)


if __name__ == "__main__":
    main()
