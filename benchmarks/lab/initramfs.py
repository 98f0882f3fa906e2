"""An initramfs for small guests, made without root: a cpio archive of the newc format.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux. What the guest does is
in ``INIT``: it fills its memory, and then obeys words on its serial line.
"""

from __future__ import annotations

import lzma
import random
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pagemerge.errors import Unsupported

from .building import compiled

MODULES = (
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_mmio.ko",
    "drivers/block/virtio_blk.ko",
)
"""For a guest's disk, in the order in which they are loaded; what is built in is not missed."""

DIGEST = Path(__file__).with_name("digest.c")

INIT = r"""#!/bin/busybox sh
# OWN, ZERO (MiB), ZEROS (their digest) and EVERY (s) come from the kernel's command line.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t devtmpfs none /dev
mount -t tmpfs -o size=100%,mode=700 none /data
for module in /modules/*; do insmod "$module" 2>/dev/null; done

say() { echo "guest: $*"; }

dd if=/dev/urandom of=/data/own bs=1M count="$OWN" 2>/dev/null || say failed: no room for own
dd if=/dev/zero of=/data/zero bs=1M count="$ZERO" 2>/dev/null || say failed: no room for zeros
own=$(digest /data/own) common=$(cat /common.digests) zero="$ZEROS  /data/zero"

# A small write now and then. Beside the commands: read -t can lose what it has half read.
writes=0
while sleep "$EVERY"; do
    writes=$((writes + 1))
    echo "$writes $writes" >/data/next && mv /data/next /data/small
done &
say ready

check() {
    [ "$(digest /data/own)" = "$own" ] || { say wrong: own; return; }
    [ "$(digest /common/*)" = "$common" ] || { say wrong: common; return; }
    [ "$(digest /data/zero)" = "$zero" ] || { say wrong: zero; return; }
    one= two=
    [ ! -e /data/small ] || read -r one two </data/small
    [ "$one" = "$two" ] || { say wrong: small; return; }
    say right
}

# Some pages of everything get new contents, which are then what it should hold.
change() {
    for file in /data/own /common/*; do
        dd if=/dev/urandom of="$file" bs=4k count=64 seek=32 conv=notrunc 2>/dev/null
    done
    dd if=/dev/urandom of=/data/zero bs=4k count=64 seek=64 conv=notrunc 2>/dev/null
    own=$(digest /data/own) common=$(digest /common/*) zero=$(digest /data/zero)
    say changed
}

# Write random bytes to the disk and read them back, past every cache but the host's memory.
disk() {
    dd if=/dev/urandom of=/data/block bs=1M count=4 2>/dev/null
    block=$(digest /data/block)
    dd if=/data/block of=/dev/vda bs=64k oflag=direct 2>/dev/null || { say wrong: write; return; }
    mv /data/block /data/written
    dd if=/dev/vda of=/data/block bs=64k count=64 iflag=direct 2>/dev/null
    [ "$(digest /data/block)" = "$block" ] && say right || say wrong: disk
}

# Say something all the time, from here on.
tick() {
    while usleep 10000; do say tick; done &
    say right
}

while read -r word; do
    case "$word" in
        check|change|disk|tick) "$word" ;;
        off) poweroff -f ;;
    esac
done
"""


def build(path: Path, common_bytes: int, kernel: str) -> None:
    """Write an initramfs with ``common_bytes`` of the same random bytes for every guest.

    ``kernel``: the release whose modules the guest gets. Raises ``Unsupported`` without busybox or
    a C compiler.
    """
    busybox = shutil.which("busybox")
    if not busybox:
        raise Unsupported("busybox is not installed (Debian: apt install busybox-static)")
    with path.open("wb") as file, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        program, files = compiled(DIGEST, Path(folder) / "digest", "-static"), list[str]()
        archive = _Archive(file)
        for name in ("bin", "dev", "proc", "data", "common", "modules"):
            archive.add(name, stat.S_IFDIR | 0o755)
        archive.add("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes())
        archive.add("bin/digest", stat.S_IFREG | 0o755, program.read_bytes())
        archive.add("init", stat.S_IFREG | 0o755, INIT.encode())
        # The kernel opens it for init before anything is mounted.
        archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        for number, module in enumerate(_modules(kernel)):
            archive.add(f"modules/{number}.ko", stat.S_IFREG | 0o644, module)
        source, part = random.Random(1), 4 << 20
        for number, first in enumerate(range(0, common_bytes, part)):
            content = source.randbytes(min(part, common_bytes - first))
            archive.add(f"common/{number:04}", stat.S_IFREG | 0o644, content)
            (Path(folder) / f"{number:04}").write_bytes(content)
            files.append(f"{number:04}")
        command = [str(program), *files]
        told = subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout
        digests = told.replace(b"  ", b"  /common/")
        archive.add("common.digests", stat.S_IFREG | 0o644, digests)
        archive.add("TRAILER!!!", 0)


class _Archive:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.inode = 0

    def add(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self.inode += 1
        links, owner, changed = 1, 0, 0
        fields = [self.inode, mode, owner, owner, links, changed, len(content)]
        fields += [0, 0, *device, len(name) + 1, 0]
        self._padded(b"070701" + b"".join(b"%08X" % it for it in fields) + name.encode() + b"\0")
        self._padded(content)

    def _padded(self, data: bytes) -> None:
        self.file.write(data + bytes(-len(data) % 4))


def _modules(kernel: str) -> Iterator[bytes]:
    for name in MODULES:
        path = Path("/lib/modules") / kernel / "kernel" / name
        if path.exists():
            yield path.read_bytes()
        elif (packed := path.with_name(path.name + ".xz")).exists():
            yield lzma.decompress(packed.read_bytes())
