"""Builds the packages of this checkout, and finds places to try them in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing

ROOT = Path(__file__).parents[2]
slow = pytest.mark.skipif(
    "PAGEMERGE_PACKAGE" not in os.environ, reason="takes minutes: `make packages` runs it"
)
SHARED = (
    *("man/man1/pagemerge.1", "man/man1/pagemerge-scan.1", "man/man5/pagemerge.toml.5"),
    *("bash-completion/completions/pagemerge", "fish/vendor_completions.d/pagemerge.fish"),
)
"""Files below ``share`` that each package has at the same place."""


def run(*argv: object, **options: object) -> str:
    """Run a command that has to work; returns what it prints."""
    words = list(map(str, argv))
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return str(done.stdout)


def build_wheel(folder: Path) -> Path:
    """Build the wheel for all distributions, as ``make wheel`` does."""
    run(ROOT / "packaging" / "portable", sys.executable, folder, timeout=1200)
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_deb(wheel: Path, folder: Path, python: str) -> Path:
    """Build the Debian package for a Debian with this Python; skips the test without debhelper."""
    if not shutil.which("dh"):
        missing("debian", "debhelper is not installed")
    argv = [sys.executable, ROOT / "packaging" / "deb", wheel, folder, "--python", python]
    run(*argv, timeout=1200)
    (built,) = folder.glob(f"*python{python}_*.deb")
    return built


def interpreters(version: str) -> Iterator[Path]:
    """Yield interpreters of this minor version: on PATH, and those that pyenv has."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [f"python{version}", *map(str, pyenv.glob(f"{version}.*/bin/python3"))]
    for path in filter(None, map(shutil.which, named)):
        # pyenv has a name on PATH for each version, also where that does not run.
        argv = [path, "-c", "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if done.stdout.strip() == version:
            yield Path(path)


class Debian:
    """A Debian of its own in a folder, with apt and no compiler (mmdebstrap(1))."""

    def __init__(self, release: str, folder: Path) -> None:
        """Get the release; skips the test where it cannot be had."""
        if os.geteuid() != 0:
            missing("debian", "making a root for a package needs root")
        if not shutil.which("mmdebstrap"):
            missing("debian", "mmdebstrap is not installed")
        options = ["--variant=apt", "--skip=cleanup/apt", "--include=man-db"]
        argv = ["mmdebstrap", *options, release, str(folder), "http://deb.debian.org/debian"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
        if done.returncode:
            missing("debian", f"mmdebstrap gets no {release}: {done.stderr[-500:]}")
        self.root = folder

    def run(self, *argv: object) -> str:
        """Run a command in it that has to work, with its own /proc; returns what it prints."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        apart = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={self.root}/proc"]
        return run(*apart, "chroot", self.root, *argv, env=env, timeout=600)

    def apt(self, *argv: object) -> None:
        """Run apt-get without questions."""
        self.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", *argv)
