"""Adds man pages and completions to a wheel.

The format is that of the binary distribution format (packaging.python.org, PEP 427): an installer
puts what lies in ``NAME.data/data`` at the same place below the environment, and RECORD lists each
file with its digest and size.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent


def add_manual(wheel: Path) -> None:
    """Generate the man pages and completions of the program in ``wheel``, and add them to it.

    Runs the program's own modules in a process of its own: the build may have another pagemerge
    in its environment. Raises ``SystemExit`` if that fails.
    """
    with tempfile.TemporaryDirectory(prefix="pagemerge-manual-") as name:
        unpacked, made = Path(name) / "wheel", Path(name) / "made"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        # pip has the packages of an isolated build in PYTHONPATH.
        before = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([str(unpacked), str(HERE), *([before] if before else [])])
        argv = [sys.executable, "-m", "manual", str(made)]
        # The caller's width of the terminal must not show in the pages.
        env = {**os.environ, "PYTHONPATH": path, "COLUMNS": "80"}
        done = subprocess.run(argv, env=env, cwd=name, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)} failed: see above")
        add(wheel, {str(it.relative_to(made)): it.read_bytes() for it in files(made)})


def files(folder: Path) -> list[Path]:
    """Return all files below ``folder``, in an order that is the same in each build."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def add(wheel: Path, data: Mapping[str, bytes]) -> None:
    """Add files to a wheel: path below the environment -> content."""
    name = "-".join(wheel.name.split("-")[:2])
    record = f"{name}.dist-info/RECORD"
    fresh = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as new:
        rows = list(csv.reader(io.StringIO(old.read(record).decode())))
        for info in old.infolist():
            if info.filename != record:
                new.writestr(info, old.read(info.filename))
        like = old.getinfo(record)
        for path, content in data.items():
            stored = f"{name}.data/data/{path}"
            new.writestr(_entry(stored, like), content)
            rows.append([stored, _digest(content), str(len(content))])
        text = io.StringIO()
        rows.sort(key=lambda row: row[0] == record)  # its own row has no digest, and is the last
        csv.writer(text, lineterminator="\n").writerows(rows)
        new.writestr(like, text.getvalue())
    fresh.replace(wheel)


def _entry(name: str, like: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Make the entry of a file, with the date and mode of another."""
    entry = zipfile.ZipInfo(name, like.date_time)
    entry.external_attr = like.external_attr
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _digest(content: bytes) -> str:
    """Return a digest as RECORD has it: base64 without padding."""
    digest = hashlib.sha256(content).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
