"""A worker that also serves HTTP out of its memory: the service whose memory is merged, or not.

Each request reads a word of each of ``READS`` pages, drawn by chance, and maps and unmaps a page,
as allocators do: that takes the lock of the process's memory for writing. Engine ``none``: memory
that no engine is told of, for a service beside the merging.
"""

from __future__ import annotations

import mmap
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pagemerge.demo.dialog import Answer, die_with_parent, serve

from .worker import Worker

READS = 16


class Serving(Worker):
    """Each public method answers one question."""

    def listen(self) -> Answer:
        """Serve HTTP at a port of the loopback interface."""
        words = self.memory[:, 0]
        read, pages = words.item, len(words)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_GET(self) -> None:
                total = 0
                for _ in range(READS):
                    total ^= read(random.randrange(pages))
                mmap.mmap(-1, mmap.PAGESIZE).close()
                body = b"%020d\n" % total
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return {"port": server.server_port}


def main() -> None:
    """Answer until the pipe is closed; ends with the benchmark in any case."""
    die_with_parent(int(sys.argv[1]))
    worker = Serving()
    verbs = ("open", "fill", "check", "listen")
    serve({verb: getattr(worker, verb) for verb in verbs})


if __name__ == "__main__":
    main()
