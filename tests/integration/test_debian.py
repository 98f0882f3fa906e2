"""The Debian package, installed and removed in a Debian of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pagemerge import __version__, cli
from tests.conftest import missing
from tests.support.packages import ROOT, SHARED, Debian, build_deb, build_wheel, run, slow

pytestmark = [slow, pytest.mark.timeout(3600)]
RELEASES = {"bookworm": "3.11", "trixie": "3.13"}
"""Release of Debian -> its Python."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that goes into the packages."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """A release of Debian."""
    return str(request.param)


@pytest.fixture(scope="module")
def deb(release: str, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package for the release."""
    return build_deb(wheel, tmp_path_factory.mktemp("deb"), RELEASES[release])


def test_the_package_has_the_version_and_the_python(release: str, deb: Path) -> None:
    python = RELEASES[release]
    assert run("dpkg-deb", "--field", deb, "Version").strip() == f"{__version__}+python{python}"
    assert f"python3 (>= {python}), python3 (<< 3." in run("dpkg-deb", "--field", deb, "Depends")


def test_lintian_finds_nothing(deb: Path) -> None:
    program = shutil.which("lintian") or missing("debian", "lintian is not installed")
    argv = [program, "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]
    done = subprocess.run([*argv, str(deb)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout


def test_it_is_installed_runs_and_is_removed(release: str, deb: Path, tmp_path: Path) -> None:
    debian = Debian(release, tmp_path / "root")
    root = debian.root
    shutil.copy(deb, root / "pagemerge.deb")
    debian.apt("install", "--no-install-recommends", "/pagemerge.deb")
    assert not (root / "usr/bin/cc").exists() and not (root / "usr/bin/pip3").exists()

    assert debian.run("dpkg", "--verify", "pagemerge") == ""
    assert debian.run("pagemerge", "--version") == f"pagemerge {__version__}\n"
    debian.run("pagemerge", "doctor")
    debian.run("pagemerge", "run", "--barrier", "park", "--", "true")
    sh = "sleep 60 & sleep 60 & pagemerge scan --compress --report /page.html --all"
    debian.run("sh", "-c", sh)
    assert (root / "page.html").stat().st_size > 1000
    for verb in cli.VERBS:
        assert f"pagemerge-{verb}.1.gz" in debian.run("man", "--where", f"pagemerge-{verb}")
    for name in (*SHARED, "zsh/vendor-completions/_pagemerge"):
        path = root / "usr" / "share" / name
        assert path.exists() or path.with_name(f"{path.name}.gz").exists(), name

    for unit in (ROOT / "deploy" / "systemd").glob("pagemerge.*"):
        assert (root / "usr/lib/systemd/system" / unit.name).exists()
        # Nothing is enabled: the administrator switches it on.
        assert not list((root / "etc/systemd/system").rglob(unit.name))
    if (ROOT / "deploy" / "systemd" / "sysusers.conf").exists():
        assert "\npagemerge:" in (root / "etc/group").read_text()

    # Its libraries are its own: other programs do not see them.
    debian.run("python3", "-c", "import importlib.util as u; assert not u.find_spec('numpy')")
    debian.apt("purge", "pagemerge")
    assert not (root / "usr/lib/pagemerge").exists()
