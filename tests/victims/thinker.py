"""A Python process of several threads that sleep, compute and wait, and check what comes of it."""

from __future__ import annotations

import hashlib
import os
import queue
import select
import threading
import time

from pagemerge.demo.dialog import Answer, serve

TURNS = dict.fromkeys(("sleeps", "hashes", "items", "polls"), 0)
WRONG: list[str] = []


def sleep() -> None:
    while True:
        since = time.monotonic()
        time.sleep(0.005)
        if time.monotonic() - since < 0.005:
            WRONG.append("woke early")
        TURNS["sleeps"] += 1


def compute() -> None:
    data = os.urandom(1 << 16)
    wanted = hashlib.sha256(data).digest()
    while True:
        if hashlib.sha256(data).digest() != wanted:
            WRONG.append("another digest")
        TURNS["hashes"] += 1


def produce(items: queue.Queue[int]) -> None:
    number = 0
    while True:
        items.put(number)
        number += 1
        time.sleep(0.001)


def consume(items: queue.Queue[int]) -> None:
    wanted = 0
    while True:
        if items.get() != wanted:
            WRONG.append("an item lost")
        wanted += 1
        TURNS["items"] += 1


def poll() -> None:
    epoll = select.epoll()
    while True:
        since = time.monotonic()
        if epoll.poll(0.005):
            WRONG.append("an event from nowhere")
        if time.monotonic() - since < 0.004:
            WRONG.append("a poll ended early")
        TURNS["polls"] += 1


def report() -> Answer:
    return {**TURNS, "wrong": WRONG, "threads": threading.active_count()}


if __name__ == "__main__":
    items: queue.Queue[int] = queue.Queue()
    for target, arguments in (
        (sleep, ()),
        (compute, ()),
        (produce, (items,)),
        (consume, (items,)),
        (poll, ()),
    ):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    serve({"report": report})
