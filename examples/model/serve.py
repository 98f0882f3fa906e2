"""Serve a model by HTTP: ``python serve.py FILE PORT [--prepack]``. Needs numpy and onnxruntime.

``GET /NUMBER`` answers with what the model makes of a vector that is drawn with that seed.
"""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
if "--prepack" not in sys.argv:
    # By default, ONNX Runtime also keeps the weights in an order of its own. These copies start
    # at other offsets within their pages in each process, so few of their pages are equal.
    options.add_session_config_entry("session.disable_prepacking", "1")
session = onnxruntime.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
[given] = session.get_inputs()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        random = np.random.default_rng(int(self.path[1:]))
        [output] = session.run(None, {given.name: random.random(given.shape, np.float32)})
        body = " ".join(f"{it:.6f}" for it in output[0, :8]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
