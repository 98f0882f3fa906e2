"""A WSGI application with a table that it only reads: ``TABLE=FILE gunicorn app:app``.

Needs numpy and gunicorn. ``GET /NUMBER`` answers with the sum of 1000 rows of the table.
"""

import os
from collections.abc import Callable, Iterable

import numpy as np

table = np.load(os.environ["TABLE"])


def app(request: dict[str, str], respond: Callable[..., object]) -> Iterable[bytes]:
    rows = (int(request["PATH_INFO"][1:]) * 7919 + np.arange(1000) * 104729) % len(table)
    body = f"{table[rows].sum():.9f}".encode()
    respond("200 OK", [("Content-Length", str(len(body)))])
    return [body]
