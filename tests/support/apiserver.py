"""An API server of Kubernetes for tests: HTTPS, a token, lists in pages, patches of nodes.

It answers in the shapes of the Kubernetes API reference (``PodList``, ``Node`` and ``Status`` of
v1), with the status codes of "Kubernetes API Concepts".
"""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import trustme

TOKEN = "header.payload.signature"
NODE = "node-1.example"


def pod(
    name: str, uid: str, merge: str | None = None, *, namespace: str = "default", **status: str
) -> dict[str, Any]:
    """A pod, as a list has it; other fields of it are of no interest here."""
    annotations = {"kubernetes.io/config.source": "api"}
    if merge is not None:
        annotations["pagemerge.io/merge"] = merge
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "resourceVersion": "4711",
            "creationTimestamp": "2026-11-01T08:00:00Z",
            "annotations": annotations,
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "x"}]},
        "status": {"phase": "Running", "qosClass": "Burstable", **status},
    }


def failure(code: int, reason: str, message: str) -> bytes:
    """A ``Status`` of a request that failed."""
    return json.dumps(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
    ).encode()


class ApiServer:
    """A context: the server runs inside. Change its public fields at any time."""

    def __init__(self, folder: Path) -> None:
        self.pods: list[Any] = []
        self.page = 500
        """Most pods of a page."""
        self.expires = 0
        """So many requests for a further page are answered with 410."""
        self.node: dict[str, Any] = {"kind": "Node", "apiVersion": "v1", "metadata": {"labels": {}}}
        self.raw: tuple[int, bytes] | None = None
        """Status and body of every answer, in place of a right one."""
        self.length: int | None = None
        """A wrong Content-Length."""
        self.silent = threading.Event()
        """While it is set, nothing is answered."""
        self.asked: list[tuple[str, str]] = []
        self.credentials = folder / "credentials"
        self.credentials.mkdir()
        (self.credentials / "token").write_text(f"{TOKEN}\n")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.credentials / "ca.crt"))
        self._certificate = authority.issue_cert("127.0.0.1")

    def __enter__(self) -> Self:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def do_PATCH(self) -> None:
                server._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        import ssl

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificate.configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        # A client that refuses the certificate is what a test wants, and no news.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.port = self._server.server_port
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.silent.clear()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append((request.command, request.path))
        while self.silent.is_set():
            if self.silent.wait(0):
                threading.Event().wait(0.02)
        status, body = self.raw or self._right(request)
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(self.length or len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _right(self, request: http.server.BaseHTTPRequestHandler) -> tuple[int, bytes]:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, failure(401, "Unauthorized", "Unauthorized")
        parts = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if request.command == "GET" and parts.path == "/api/v1/pods":
            return self._list(query)
        if parts.path == f"/api/v1/nodes/{NODE}":
            if request.command == "PATCH":
                if request.headers.get("Content-Type") != "application/merge-patch+json":
                    return 415, failure(415, "UnsupportedMediaType", "unsupported media type")
                body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
                self.node["metadata"]["labels"].update(body["metadata"]["labels"])
            return 200, json.dumps(self.node).encode()
        user = "system:serviceaccount:pagemerge:pagemerge"
        told = f'{parts.path} is forbidden: User "{user}" cannot {request.command} resource'
        return 403, failure(403, "Forbidden", told)

    def _list(self, query: dict[str, str]) -> tuple[int, bytes]:
        if query["fieldSelector"] != f"spec.nodeName={NODE}":
            return 400, failure(400, "BadRequest", "field label not supported")
        first = int(query.get("continue", "0"))
        if first and self.expires:
            self.expires -= 1
            told = "The provided continue parameter is too old to display a consistent list result."
            return 410, failure(410, "Expired", told)
        end = first + min(self.page, int(query["limit"]))
        about: dict[str, Any] = {"resourceVersion": "4711"}
        if end < len(self.pods):
            about |= {"continue": str(end), "remainingItemCount": len(self.pods) - end}
        found = {"kind": "PodList", "apiVersion": "v1", "metadata": about}
        return 200, json.dumps({**found, "items": self.pods[first:end]}).encode()
