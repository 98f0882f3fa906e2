"""Serve a catalogue by HTTP: ``python serve.py FILE PORT``. Needs numpy.

The catalogue has a matrix of numpy (FILE.npy) and Python objects (FILE.json).
``GET /NUMBER`` answers with what one of the rows is most like, and with its name.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np

with Path(f"{sys.argv[1]}.json").open() as lines:
    rows = [json.loads(line) for line in lines]
matrix = np.load(f"{sys.argv[1]}.npy")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        near = matrix[int(self.path[1:]) % len(matrix)] @ matrix[: 1 << 14].T
        body = " ".join(rows[it]["name"] for it in np.argsort(-near)[:5]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
