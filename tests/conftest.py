"""What the tests share: real victims, a private hub socket, and honest skips.

A test that needs something of the host says so: ``@pytest.mark.requires("uffd", "root")``. Where
the host has it not, the test is skipped with the reason; ``PAGEMERGE_REQUIRE=kernel,uffd,qemu``
names those that must be there, and turns their skips into failures.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, Protocol

import pytest
from hypothesis import settings

from pagemerge.demo.dialog import Child
from pagemerge.errors import Unsupported
from pagemerge.linux.host import userfaultfd
from pagemerge.linux.ksm import Ksm
from tests.support.building import VICTIMS
from tests.support.cgroup import limited
from tests.support.hubs import Hub

# How long an example takes says something of the machine only. `make test` tries the same examples
# each time, so that it fails only where the code has changed; `make properties` tries new ones.
settings.register_profile("pagemerge", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1_000, print_blob=True)
settings.load_profile("pagemerge")


def lacks_kernel() -> str | None:
    """Why the kernel's own merging cannot be used here."""
    return Ksm().why_not()


def lacks_uffd() -> str | None:
    """Why a full-mode userfaultfd cannot be had here (userfaultfd(2))."""
    found = userfaultfd()
    if found.mode == "full":
        return None
    return f"userfaultfd: {found.why}: needs CAP_SYS_PTRACE or access to /dev/userfaultfd"


def lacks_qemu() -> str | None:
    """Why no guest can be booted here."""
    if not shutil.which("qemu-system-x86_64"):
        return "qemu-system-x86_64 is not installed"
    kernels = list(Path("/boot").glob("vmlinuz-*"))
    return None if kernels else "there is no kernel to boot in /boot"


def lacks_kvm() -> str | None:
    """Why no virtual machine of our own can be made: its guest is machine code of x86-64."""
    if platform.machine() != "x86_64":
        return f"the guest's code is for x86_64, and this is {platform.machine()}"
    get_api_version, version = 0xAE00, 12
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}: needs KVM, and access to its device"
    try:
        found = fcntl.ioctl(device, get_api_version)
    except OSError as error:
        return f"/dev/kvm: KVM_GET_API_VERSION: {error.strerror}"
    finally:
        os.close(device)
    return None if found == version else f"/dev/kvm speaks version {found} of KVM, not {version}"


def lacks_root() -> str | None:
    """Why things only root may do cannot be tested."""
    return None if os.geteuid() == 0 else "needs root"


def lacks_cc() -> str | None:
    """Why victims in C cannot be built: Python would be too slow, or is what they must not be."""
    return None if shutil.which("cc") else "there is no C compiler (cc)"


def lacks_cgroup() -> str | None:
    """Why no memory cgroup of our own can be made."""
    try:
        with limited(1 << 20):
            return None
    except Unsupported as error:
        return str(error)


PROBES: dict[str, Callable[[], str | None]] = {
    "kernel": lacks_kernel,
    "uffd": lacks_uffd,
    "qemu": lacks_qemu,
    "kvm": lacks_kvm,
    "root": lacks_root,
    "cc": lacks_cc,
    "cgroup": lacks_cgroup,
}
FOUND_OUT = (
    *("m32", "whole", "filecaps", "mounts", "namespaces", "zram", "chromium", "gdb", "core"),
    *("prometheus", "node_exporter", "socat", "systemd"),
    *("bash", "zsh", "fish", "man", "mandoc", "debian", "pythons"),
    *("kubectl", "podman", "services", "hugepages"),
    *("pandas", "pyarrow", "safetensors", "scipy", "sklearn", "torch", "polars", "ml_dtypes"),
)
"""What tests find out by themselves, and say by ``missing``: 32-bit programs, PR_SET_MEMORY_MERGE,
capabilities of files, mounts and namespaces of one's own, a browser, Prometheus, systemd, shells,
readers of man pages, Debian's tools and archive, other versions of Python, kubectl, podman,
the programs of ``examples/``, huge pages, libraries."""
REQUIRED = set(filter(None, os.environ.get("PAGEMERGE_REQUIRE", "").split(",")))


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it runs in the background ignore them, and so would all programs here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    names = ", ".join(PROBES)
    config.addinivalue_line("markers", f"requires(*names): what the host must offer: {names}")
    if unknown := REQUIRED - {*PROBES, *FOUND_OUT}:
        known = ", ".join([*PROBES, *FOUND_OUT])
        raise pytest.UsageError(f"PAGEMERGE_REQUIRE: {', '.join(unknown)}: not one of {known}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("requires"):
        for name in mark.args:
            require(name)


def require(name: str) -> None:
    """Skip the test where the host does not offer this; fail it where that must be there."""
    if reason := PROBES[name]():
        missing(name, reason)


def missing(name: str, reason: str) -> NoReturn:
    """Skip the test, because the host does not offer this; fail it if the host must."""
    (pytest.fail if name in REQUIRED else pytest.skip)(f"{name}: {reason}")


class Spawn(Protocol):
    """Start ``tests/victims/NAME.py`` with arguments, and wait for its ready line."""

    def __call__(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> Child: ...


@pytest.fixture
def victim() -> Iterator[Spawn]:
    """Starts victims, real processes that talk JSON lines; all of them end with the test."""
    with ExitStack() as running:

        def spawn(name: str, *arguments: str, env: dict[str, str] | None = None) -> Child:
            argv = [sys.executable, str(VICTIMS / f"{name}.py"), *arguments]
            return running.enter_context(Child(argv, env={**os.environ, **(env or {})}))

        yield spawn


@pytest.fixture
def hub_socket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a hub of this test alone would listen; nobody does yet.

    Not below ``tmp_path``: the path of a socket has at most 107 bytes (unix(7)).
    """
    with tempfile.TemporaryDirectory(prefix="pagemerge-test-") as folder:
        path = Path(folder) / "hub"
        monkeypatch.setenv("PAGEMERGE_SOCKET", str(path))
        yield path


@pytest.fixture
def hub(hub_socket: Path) -> Iterator[Hub]:
    """A hub of this test alone, which runs, and is to run on until the test is over."""
    with Hub(hub_socket) as running:
        yield running
        running.assert_alive()
