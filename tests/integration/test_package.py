"""The package as pip installs it: whole, whoever builds it, and no larger than it has to be.

The archive of sources is looked at always. To build from it takes minutes: `make package` does so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import pagemerge

PACKAGE = Path(pagemerge.__file__).parent
ROOT = PACKAGE.parents[1]
LIBRARY = "libpagemerge_preload.so"
PYTHON = "python/pagemerge"
"""The package's folder among the sources."""


def templates(package: Path) -> set[str]:
    """The templates of the report in a package, by their paths in it."""
    found = package.glob("report/templates/**/*.*")
    return {str(path.relative_to(package)) for path in found}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, packed by the back end that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("sdist")
    code = "import sys; sys.path.insert(0, 'packaging'); import backend; backend.build_sdist(%r)"
    argv = [sys.executable, "-c", code % str(folder)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (archive,) = folder.iterdir()
    return archive


def test_the_sources_are_whole(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "Cargo.lock", "LICENSE", "README.md"}
    wanted |= {str(it.relative_to(ROOT)) for it in (ROOT / "packaging").rglob("*.py")}
    wanted |= {f"{PYTHON}/{name}" for name in templates(PACKAGE)}
    for folder, ending in (("python", "py*"), ("crates/*/src", "rs"), ("crates/*", "toml")):
        found = ROOT.glob(f"{folder}/**/*.{ending}")
        wanted |= {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}
    assert wanted <= packed
    assert f"{PYTHON}/report/templates/page.html" in packed
    assert not [name for name in packed if name.endswith(".so")]


def test_both_libraries_are_there_and_stripped() -> None:
    for library in (PACKAGE / LIBRARY, *PACKAGE.glob("_core*.so")):
        assert not sections(library) & {".symtab", ".debug_line"}
    assert (PACKAGE / LIBRARY).stat().st_size < 1 << 20


def sections(library: Path) -> set[str]:
    """The names of an ELF file's sections."""
    argv = ["readelf", "--section-headers", "--wide", str(library)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20)
    return {word for word in said.stdout.replace("]", " ").split() if word.startswith(".")}


@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    "PAGEMERGE_PACKAGE" not in os.environ, reason="takes minutes: `make package` runs it"
)
def test_pip_installs_it_from_the_sources(sdist: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=300)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(sdist)], check=True, timeout=1500, cwd=tmp_path)
    code = "import pagemerge, pathlib; print(pathlib.Path(pagemerge.__file__).parent)"
    said = subprocess.run(
        [str(python), "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    installed = Path(said.stdout.strip())
    assert environment in installed.parents
    assert (installed / "py.typed").exists()
    assert templates(installed) == templates(PACKAGE)
    assert not sections(installed / LIBRARY) & {".symtab", ".debug_line"}
    assert (environment / "share" / "man" / "man1" / "pagemerge.1").exists()
    program = environment / "bin" / "pagemerge"
    for words in (["--version"], ["doctor"], ["run", "--barrier", "park", "--", "true"]):
        subprocess.run([str(program), *words], cwd=tmp_path, check=True, timeout=60)


def test_make_takes_another_python_when_it_is_named(tmp_path: Path) -> None:
    """Only what make would do: the making of an environment is its own affair."""
    for name in ("Makefile", "bootstrap", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python, stamp = tmp_path / ".venv" / "bin" / "python", tmp_path / ".venv" / ".run"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    stamp.touch()

    def plan(*given: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        argv = ["make", "--dry-run", *given, str(stamp)]
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "bootstrap" not in plan()
    assert "bootstrap" not in plan(f"PYTHON={sys.executable}")
    python.unlink()
    python.write_text("#!/bin/sh\necho /usr 3 14 1\n")
    python.chmod(0o755)
    assert "bootstrap" not in plan()
    assert "./bootstrap run" in plan(f"PYTHON={sys.executable}")
