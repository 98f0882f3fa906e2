"""Finds this user's hub, starts it, and asks it for its counters."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from pagemerge.errors import HubError
from pagemerge.hub.model import Status
from pagemerge.linux.text import plain


def socket_path() -> Path:
    """Return where this user's hub listens: PAGEMERGE_SOCKET, else in ``own_directory``."""
    if named := os.environ.get("PAGEMERGE_SOCKET"):
        return Path(named)
    return own_directory() / "hub.sock"


def own_directory() -> Path:
    """Return a directory that only this user can write: in XDG_RUNTIME_DIR, /run or /tmp."""
    uid = os.geteuid()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute() and runtime.is_dir() and runtime.stat().st_uid == uid:
        return runtime / "pagemerge"
    return Path("/run/pagemerge") if uid == 0 else Path(f"/tmp/pagemerge-{uid}")


def state_directory() -> Path:
    """Return the directory for what outlives a reboot: below /var/lib for root, in XDG_STATE_HOME
    (~/.local/state) for others."""
    if os.geteuid() == 0:
        return Path("/var/lib/pagemerge")
    for state in (
        Path(os.environ.get("XDG_STATE_HOME", "")),
        Path(os.path.expanduser("~"), ".local", "state"),  # noqa: PTH111 (Path.home may raise)
    ):
        if state.is_absolute():
            return state / "pagemerge"
    return own_directory()  # a user without a home


def barrier() -> str:
    """Return the barrier that this user wants: PAGEMERGE_BARRIER, else ``auto``."""
    return os.environ.get("PAGEMERGE_BARRIER") or "auto"


def hub_command(path: str) -> list[str]:
    """Return the command that starts a hub at ``path``; this hub ends after its last client.

    Empty if PAGEMERGE_AUTOSTART=0 asks for no hub, or inside another program's interpreter.
    """
    if os.environ.get("PAGEMERGE_AUTOSTART", "1") == "0" or not sys.executable:
        return []
    return [sys.executable, "-m", "pagemerge", "daemon", "--until-idle", "--socket", path]


def fetch_status(path: Path | None = None, timeout: float = 10.0) -> Status:
    """Return the counters of the hub at ``path`` (default: ``socket_path()``).

    Raises ``HubError`` if no hub listens there, or it does not answer in ``timeout`` seconds.
    """
    import msgspec

    from pagemerge.hub import wire

    named, path = path, path or socket_path()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(timeout)
            peer.connect(str(path))
            peer.sendall(wire.HEADER.pack(0, wire.Kind.STATUS, 0))
            length, kind, _ = wire.HEADER.unpack(_exactly(peer, wire.HEADER.size))
            body = _exactly(peer, min(length, wire.MOST_BODY))
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        if named:
            told = f"no hub runs at {path}; `pagemerge status` without --socket asks your own hub"
            raise HubError(told, path=str(path)) from error
        raise HubError(
            f"no hub runs at {path}, so the user engine merges no memory. A hub starts with the "
            "first program that marks memory under `pagemerge run`, or merges memory from Python; "
            "`pagemerge daemon` starts one by hand. `pagemerge doctor` shows what Linux merges",
            path=str(path),
        ) from error
    except OSError as error:
        raise HubError(
            f"the hub at {path} gives no answer: {error.strerror or error}", path=str(path)
        ) from error
    if kind == wire.Kind.REFUSED:
        raise HubError(f"the hub at {path} refuses: {plain(body, 300)}", path=str(path))
    if kind != wire.Kind.COUNTERS:
        raise HubError(f"the program that listens at {path} is no pagemerge hub", path=str(path))
    return msgspec.json.decode(body, type=Status)


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the hub hung up")
        data += part
    return data
