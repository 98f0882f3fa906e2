"""Debian's packages, downloaded and unpacked into a cache; nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pagemerge.errors import Unsupported

MACHINES = {"x86_64": "x86", "aarch64": "arm64"}
"""What uname calls a machine -> the kernel's folder of it."""

LIBRARIES = ("libcap-dev", "libnuma-dev", "liburing-dev")
"""What some of the programs are linked with; without one of these they are not built."""

_KERNEL = re.compile(r"linux-source-(\d+(?:\.\d+)*)$")
_APT = ("-q", "-o", "APT::Sandbox::User=root")
"""As root, apt would download as a user who cannot write into the cache."""


def kernel_source(cache: Path, package: str | None) -> Path:
    """The part of a kernel's source that its mm selftests are built from.

    ``package`` is one of Debian's linux-source packages; None: the newest that apt offers. Raises
    ``Unsupported`` where it cannot be had.
    """
    package = package or newest_kernel(offered())
    tree = cache / package
    if not (tree / "complete").exists():
        archive = download(cache, package)
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        _unpack_kernel(archive, package, tree)
        (tree / "complete").touch()
        archive.unlink()
    return tree


def offered() -> list[str]:
    """The linux-source packages that apt knows, backports included."""
    if shutil.which("apt-cache") is None or shutil.which("dpkg-deb") is None:
        raise Unsupported(
            "the kernel's selftests come from Debian's linux-source package, and there is no apt "
            "here: run this on Debian, or in a container of it"
        )
    search = ["apt-cache", "pkgnames", "linux-source-"]
    found = _said(search).split()
    if not any(map(_KERNEL.match, found)):
        _update()
        found = _said(search).split()
    return found


def newest_kernel(packages: Sequence[str]) -> str:
    """Of several names of packages that of the newest kernel's source."""
    versions = {
        tuple(map(int, found[1].split("."))): found[0]
        for name in packages
        if (found := _KERNEL.match(name))
    }
    if not versions:
        raise Unsupported(
            "apt offers no package linux-source-VERSION: have a Debian archive with sources of the "
            "kernel in /etc/apt/sources.list, and call apt-get update"
        )
    return versions[max(versions)]


def download(cache: Path, package: str) -> Path:
    """The file of a package, in ``cache``. Raises ``Unsupported`` where apt cannot get it."""
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob(f"{package}_*.deb"):
        old.unlink()
    command = ["apt-get", *_APT, "download", package]
    got = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
    if got.returncode:
        # The list of packages is older than the archive: what it names has gone.
        _update()
        got = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
    if got.returncode or not (files := list(cache.glob(f"{package}_*.deb"))):
        raise Unsupported(f"apt-get cannot download {package}: {got.stderr.strip()}")
    return files[0]


def unpacked(cache: Path, packages: Sequence[str], name: str) -> Path:
    """A folder in ``cache`` with what these packages hold. Raises ``Unsupported`` as above."""
    tree = cache / name
    if not (tree / "complete").exists():
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        for package in packages:
            archive = download(cache, package)
            subprocess.run(["dpkg-deb", "-x", str(archive), str(tree)], check=True)
            archive.unlink()
        (tree / "complete").touch()
    return tree


def machine() -> str:
    """The kernel's folder of this machine; raises ``Unsupported`` for one that we do not know."""
    name = os.uname().machine
    if name not in MACHINES:
        raise Unsupported(f"the selftests are built for {', '.join(MACHINES)}, this is {name}")
    return MACHINES[name]


def _unpack_kernel(archive: Path, package: str, tree: Path) -> None:
    """Of 1.5 GB the 80 MB that the headers and the selftests are made of."""
    wanted = (
        *("Makefile", "Kbuild", "scripts", "usr", "include/uapi", "include/asm-generic"),
        *(f"arch/{machine()}", "mm/gup_test.h", "tools/testing/selftests"),
        *("tools/include", "tools/arch", "tools/scripts"),
    )
    pipeline = (
        ["dpkg-deb", "--fsys-tarfile", str(archive)],
        ["tar", "-xO", f"./usr/src/{package}.tar.xz"],
        ["xz", "-dc"],
        ["tar", "-x", "--strip-components=1", "-C", str(tree)]
        + [f"{package}/{path}" for path in wanted],
    )
    stages: list[subprocess.Popen[bytes]] = []
    for argv in pipeline:
        before = stages[-1].stdout if stages else None
        stages.append(subprocess.Popen(argv, stdin=before, stdout=subprocess.PIPE))
        if before is not None:
            before.close()  # so that who writes learns when who reads has ended
    stages[-1].communicate()
    failed = [argv[0] for argv, it in zip(pipeline, stages, strict=True) if it.wait()]
    if failed:
        raise Unsupported(f"{package} cannot be unpacked: {', '.join(failed)} failed, see above")


def _update() -> None:
    if os.geteuid() == 0:
        subprocess.run(["apt-get", *_APT, "update"], capture_output=True, check=False)


def _said(argv: Sequence[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
