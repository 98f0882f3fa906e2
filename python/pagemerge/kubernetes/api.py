"""Asks the API server of a cluster, over HTTPS, with the credentials of a service account.

Sources: "Accessing the Kubernetes API from a Pod", "Kubernetes API Concepts" (pages of lists,
merge patches) and the type ``Status`` of the API reference. The token is read for each request,
because the kubelet replaces it before it expires.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from pagemerge.errors import PagemergeError, UsageError
from pagemerge.linux.text import plain, read

CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts ``token`` and ``ca.crt`` of the service account of a pod."""

PATIENCE = 10.0
"""Seconds that the server may keep us waiting for the next part of an answer."""
LONGEST = 30.0
"""Seconds that a whole answer may take."""
MOST_BYTES = 64 << 20
"""Bytes of an answer. A page of 500 pods has a few MB."""
_MOST_TOKEN = 1 << 16
_MOST_QUOTED = 200

_CURES = {
    401: "the token is not accepted: mount one of this cluster's service account",
    403: "bind the role of deploy/kubernetes to the service account",
}


class Refused(PagemergeError):
    """The API server answers with an error; ``status`` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Status(msgspec.Struct):
    """The answer to a request that failed (``Status`` of meta/v1)."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The API server of a cluster."""

    host: str
    port: int
    credentials: Path = CREDENTIALS
    """A folder with ``token`` and ``ca.crt``."""
    patience: float = field(default=PATIENCE)
    """Seconds, as ``PATIENCE``."""

    @classmethod
    def at(cls, url: str, credentials: Path) -> Cluster:
        """Return the server at ``url``. Raises ``UsageError`` if that is no ``https://HOST:PORT``."""
        try:
            parts = urlsplit(url)
            port = parts.port or 443
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise UsageError(f"--server {plain(url, 60)}: give it as https://HOST:PORT")
        return cls(parts.hostname, port, credentials)

    @classmethod
    def around(cls, credentials: Path, environment: Mapping[str, str] = os.environ) -> Cluster:
        """Return the server of the cluster that this pod runs in. Raises ``UsageError`` outside."""
        host = environment.get("KUBERNETES_SERVICE_HOST", "")
        port = environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port):
            raise UsageError(
                "this is no pod of a cluster (KUBERNETES_SERVICE_HOST and _PORT): name the API "
                "server with --server, and its token and ca.crt with --credentials"
            )
        return cls(host, int(port), credentials)

    def get(self, path: str) -> bytes:
        """Get a resource. Raises ``Refused`` or ``PagemergeError``."""
        return self._ask("GET", path)

    def patch(self, path: str, body: bytes) -> None:
        """Change a resource by a merge patch (RFC 7396). Raises as ``get``."""
        self._ask("PATCH", path, body, {"Content-Type": "application/merge-patch+json"})

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        where = f"the API server at {self.host}:{self.port}"
        try:
            context = ssl.create_default_context(cafile=str(self.credentials / "ca.crt"))
        except OSError as error:  # ssl.SSLError is one
            told = f"cannot use {self.credentials / 'ca.crt'}: {error.strerror or error}"
            raise PagemergeError(told, path=str(self.credentials)) from None
        accept = {"Accept": "application/json", "Authorization": f"Bearer {self._token()}"}
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=self.patience, context=context
        )
        try:
            connection.request(method, path, body, {**accept, **(headers or {})})
            response = connection.getresponse()
            answer = _body(response, where)
        except ssl.SSLCertVerificationError as error:
            told = f"{where} has a certificate that ca.crt does not vouch for"
            raise PagemergeError(f"{told}: {plain(error.verify_message, 100)}") from None
        except TimeoutError:
            told = f"{where} has not answered for {self.patience:g} seconds"
            raise PagemergeError(told) from None
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or plain(str(error), 100) or type(error).__name__
            raise PagemergeError(f"{where} cannot be reached: {why}") from None
        finally:
            connection.close()
        if response.status != 200:
            said = f"{where} answers {method} with {response.status}: {_message(answer)}"
            cure = _CURES.get(response.status)
            raise Refused(f"{said}; {cure}" if cure else said, response.status)
        return answer

    def _token(self) -> str:
        path = self.credentials / "token"
        try:
            token = read(path, _MOST_TOKEN).strip().decode("ascii")
        except OSError as error:
            told = f"cannot read {path}: {error.strerror}: mount a service account token there"
            raise PagemergeError(told, path=str(path)) from None
        except UnicodeDecodeError:
            token = ""
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise PagemergeError(f"{path} holds no token of one line", path=str(path))
        return token


def _body(response: http.client.HTTPResponse, where: str) -> bytes:
    """Read an answer. Raises ``PagemergeError`` if it is too long or slow, or is cut off."""
    pieces, left, end = [], MOST_BYTES, time.monotonic() + LONGEST
    while piece := response.read1(1 << 16):
        pieces.append(piece)
        left -= len(piece)
        if left < 0 or time.monotonic() > end:
            limit = f"{MOST_BYTES >> 20} MiB" if left < 0 else f"{LONGEST:g} seconds"
            raise PagemergeError(f"{where} answers with more than {limit}")
    if response.length:  # what is still to come of Content-Length
        raise PagemergeError(f"{where} has broken off in the middle of its answer")
    return b"".join(pieces)


def _message(answer: bytes) -> str:
    """Return the reason in an answer that is an error, safe to print."""
    try:
        told = msgspec.json.decode(answer, type=_Status).message
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        told = ""
    return plain(told or answer[:_MOST_QUOTED], _MOST_QUOTED) or "nothing"
