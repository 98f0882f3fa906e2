"""The examples of docs/scan.md, run as they stand, print what the page says, less the figures."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "scan.md").read_text()
(SCRIPT,) = re.findall(r"^```python\n(# workers\.py\n.*?)^```$", PAGE, re.S | re.M)
EXAMPLES = re.findall(r"^```console\n\$ pagemerge (.*?)\n(.*?)^```$", PAGE, re.S | re.M)
PIDS = ("794", "795", "796")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """The processes of the page: their folder and their pids."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "workers.py").write_text(SCRIPT)
    argv = [sys.executable, "workers.py"]
    with subprocess.Popen(argv, cwd=folder, stdin=-1, stdout=-1, text=True) as made:
        assert made.stdout and made.stdin
        pids = made.stdout.readline().split()
        assert len(pids) == 3
        yield folder, pids
        made.stdin.close()


def normal(text: str) -> str:
    """Figures, units, paths and blanks do not count."""
    text = re.sub(r"\S*/model\.bin", "model.bin", text)
    text = re.sub(r"[\d.,]*\d( (bytes|kB|MB|GB))?%?", "N", text)
    return " ".join(text.split())


@pytest.mark.parametrize(("command", "promised"), EXAMPLES, ids=[it[0] for it in EXAMPLES])
def test_an_example_prints_what_the_page_says(
    command: str, promised: str, workers: tuple[Path, list[str]]
) -> None:
    folder, pids = workers
    known = dict(zip(PIDS, pids, strict=True))
    argv = [known.get(word, word) for word in shlex.split(command)]
    env = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "pagemerge", *argv],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed, at = normal(done.stdout), 0
    for part in re.split(r"^\.\.\.$", promised, flags=re.M):
        wanted = normal(part)
        found = printed.find(wanted, at)
        assert found >= 0, f"not printed: {wanted}\nprinted: {printed[at:]}"
        at = found + len(wanted)


def test_every_example_is_about_these_processes() -> None:
    assert len(EXAMPLES) == PAGE.count("$ pagemerge ") >= 11
