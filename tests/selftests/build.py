"""The kernel's mm selftests and our companions, compiled into a folder of the cache."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux import text
from tests.selftests import fetch

HERE = Path(__file__).parent
COMPANIONS = ("active", "every")

_FAILED = re.compile(r"^make.*\*\*\* \[.*?([\w.-]+)\] Error")


def programs(cache: Path, tree: Path, jobs: int) -> Path:
    """Build all that can be built of a kernel's mm selftests; the folder they are in.

    What could not be built, and the compiler's words, are in its file ``log``. Raises
    ``Unsupported`` if not even the kernel's headers can be made.
    """
    made = tree / "programs"
    if (made / "complete").exists():
        return made
    made.mkdir(exist_ok=True)
    env = {**os.environ, **_libraries(cache)}
    headers = ["make", f"-j{jobs}", "headers", f"ARCH={fetch.machine()}"]
    got = subprocess.run(headers, cwd=tree, env=env, capture_output=True, check=False)
    if got.returncode:
        said = text.plain(text.lines(got.stderr)[0] if got.stderr else b"", 200)
        raise Unsupported(f"the kernel's headers cannot be made: {said}")
    argv = ["make", "-k", f"-j{jobs}", f"OUTPUT={made}", f"top_srcdir={tree}"]
    argv.append(f"KHDR_INCLUDES=-isystem {tree / 'usr/include'}")
    folder = tree / "tools/testing/selftests/mm"
    got = subprocess.run(argv, cwd=folder, env=env, capture_output=True, check=False)
    (made / "log").write_bytes(got.stdout + got.stderr)
    (made / "complete").touch()
    return made


def not_built(made: Path) -> list[str]:
    """The programs that could not be built, by the log of ``programs``."""
    found = (_FAILED.match(text.plain(line)) for line in text.lines(text.read(made / "log")))
    return sorted({it[1] for it in found if it})


def companions(folder: Path) -> Path:
    """Build our libraries to preload; the folder they are in, which is ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
        made, source = folder / f"{name}.so", HERE / f"{name}.c"
        try:
            subprocess.run(["cc", *flags, "-o", str(made), str(source), "-ldl"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PagemergeError(f"{source.name} cannot be compiled: {error}") from error
    return folder


def _libraries(cache: Path) -> dict[str, str]:
    """Where the compiler finds the libraries that the programs are linked with."""
    tree = fetch.unpacked(cache, fetch.LIBRARIES, "libraries")
    for link in tree.rglob("*.so"):
        if not link.exists():  # it leads into a package that is not there: take the archive
            link.unlink()
    include = tree / "usr/include"
    # Debian's folder of a machine: x86_64-linux-gnu.
    return {
        "CPATH": ":".join(map(str, [include, *include.glob("*-linux-gnu")])),
        "LIBRARY_PATH": ":".join(map(str, tree.glob("usr/lib/*-linux-gnu"))),
    }
