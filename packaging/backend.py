"""The build back end (PEP 517, PEP 660): maturin's, and what maturin does not build.

maturin builds one library, the binding. The package has two more, which are preloaded into other
programs and so cannot be the binding: one crate, with and without its feature ``all``. They are
built first and put into the package's folder; maturin takes them from there into the wheel
(``include`` in pyproject.toml).

Man pages and completions are generated from the parsers (``manual``), which need the binding. So
they are added to the wheel that maturin has built. An editable install has none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import archive
import maturin

# Hooks to which nothing has to be added: a front end looks for them by name.
get_requires_for_build_wheel = maturin.get_requires_for_build_wheel
get_requires_for_build_editable = maturin.get_requires_for_build_editable
get_requires_for_build_sdist = maturin.get_requires_for_build_sdist

Options = Mapping[str, object] | None

CRATE = "pagemerge-preload"
FOLDER = Path("python/pagemerge")
BUILT = "libpagemerge_preload.so"
LIBRARIES = {BUILT: (), "libpagemerge_all.so": ("--features", "all")}
"""Name of a library in the package -> what cargo is told for it."""


def build_wheel(folder: str, options: Options = None, metadata: str | None = None) -> str:
    """Build a wheel into ``folder``; returns its file name."""
    _find_tools()
    _build_libraries()
    name = str(maturin.build_wheel(folder, options, metadata))
    archive.add_manual(Path(folder) / name)
    return name


def build_editable(folder: str, options: Options = None, metadata: str | None = None) -> str:
    """Build a wheel that points at this checkout into ``folder``; returns its file name."""
    _find_tools()
    _build_libraries()
    return str(maturin.build_editable(folder, options, metadata))


def build_sdist(folder: str, options: Options = None) -> str:
    """Pack the sources into ``folder``; returns the archive's file name."""
    _find_tools()
    return str(maturin.build_sdist(folder, options))


def prepare_metadata_for_build_wheel(folder: str, options: Options = None) -> str:
    """Write the wheel's ``.dist-info`` into ``folder``; returns its name."""
    _find_tools()
    return str(maturin.prepare_metadata_for_build_wheel(folder, options))


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def _find_tools() -> None:
    """Put cargo and maturin on PATH, for ourselves and for maturin's hooks.

    Without cargo, puccinialin (which ``get_requires_for_build_wheel`` then asks for) gets one. A
    build without isolation (``pip --no-build-isolation``) may not have its environment on PATH.
    """
    if not shutil.which("cargo"):
        from puccinialin import setup_rust

        os.environ.update(setup_rust())
    if not shutil.which("maturin"):
        scripts = sysconfig.get_path("scripts")
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), scripts])


def _build_libraries() -> None:
    """Build the libraries to preload, and put them into the package's folder."""
    for name, features in LIBRARIES.items():
        _build_library(FOLDER / name, features)


def _build_library(library: Path, features: Sequence[str]) -> None:
    argv = ["cargo", "build", "--release", "--package", CRATE, *features]
    build = subprocess.run(
        [*argv, "--message-format", "json-render-diagnostics"],
        stdout=subprocess.PIPE,
        check=False,
    )
    if build.returncode:
        raise SystemExit(f"{' '.join(argv)} failed: see above")
    # cargo says where it is: that depends on the caller's configuration and environment.
    messages = map(json.loads, build.stdout.splitlines())
    (built,) = (
        name
        for message in messages
        if message["reason"] == "compiler-artifact"
        for name in message["filenames"]
        if Path(name).name == BUILT
    )
    # Under another name first: programs that run may have the old file mapped.
    fresh = library.with_suffix(".new")
    shutil.copy(built, fresh)
    fresh.replace(library)
