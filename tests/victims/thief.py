"""A client that becomes another user's program and has the hub read that one's memory.

Arguments: the hub's socket, a set-uid program that says where its secret is. A fork child keeps
the connection, asks for the secret's page and prints what comes.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from pathlib import Path

from tests.support.commands import NOBODY
from tests.support.stranger import Stranger

from pagemerge.hub import wire


def ask(stranger: Stranger, address: int) -> str:
    """``taken`` if the hub hands out the page at ``address``."""
    page = address & ~4095
    stranger.send(wire.Kind.INTERN, 1, wire.INTERN.pack(page, 1 << 30, 1, 1))
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(stranger.socket, 16, 4)
        except ConnectionResetError:
            return "dismissed"
        for descriptor in descriptors:
            if b"the secret of another user" in os.pread(descriptor, 1 << 20, 0):
                return "taken"
        if not data:
            return "dismissed"
        length, kind, sequence = wire.HEADER.unpack(data)
        body = stranger.socket.recv(length, socket.MSG_WAITALL) if length else b""
        if kind == wire.Kind.LIST:
            stranger.send(wire.Kind.REGIONS, sequence)
        elif kind == wire.Kind.REFUSED:
            return "refused: " + body.decode()
        elif kind == wire.Kind.MERGE:
            return "answered"


def main() -> None:
    path, program = sys.argv[1:]
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable, as a program of that user is from its start
    stranger = Stranger(Path(path))
    stranger.hello()
    read, write = os.pipe()
    if os.fork():
        os.dup2(write, 1)
        os.execv(program, [program])
    os.close(write)
    address = int(os.read(read, 64))
    print(json.dumps({"pid": os.getpid(), "what": ask(stranger, address)}), flush=True)


if __name__ == "__main__":
    main()
