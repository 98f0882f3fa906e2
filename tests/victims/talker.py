"""A process that answers, fails, ends and falls silent on demand."""

from __future__ import annotations

import os
import signal

from pagemerge.demo.dialog import Answer, serve


def echo(text: str) -> Answer:
    return {"text": text}


def fail() -> Answer:
    raise ValueError("on purpose")


def leave(status: int) -> Answer:
    os._exit(status)


def hang() -> Answer:
    while True:
        signal.pause()


if __name__ == "__main__":
    serve({"echo": echo, "fail": fail, "leave": leave, "hang": hang}, greeting="hello")
