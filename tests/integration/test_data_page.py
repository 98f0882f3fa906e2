"""The examples of docs/data.md run as they stand and print what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```\n\n.*?^```text\n(.*?)^```$", PAGE, re.S | re.M)
NUMBER = re.compile(r"\d+(?= MB)")


def test_every_python_block_is_followed_by_what_it_prints() -> None:
    assert len(EXAMPLES) == PAGE.count("```python\n") == 3


@pytest.mark.parametrize(("code", "promised"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_the_page_says(
    code: str, promised: str, hub_socket: Path, tmp_path: Path
) -> None:
    (tmp_path / "example.py").write_text(code)
    env = {**os.environ, "PAGEMERGE_AUTOSTART": "1"}
    argv = [sys.executable, "example.py"]
    done = subprocess.run(
        argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert NUMBER.sub("N", done.stdout) == NUMBER.sub("N", promised)
    found, wanted = (list(map(int, NUMBER.findall(text))) for text in (done.stdout, promised))
    assert found == pytest.approx(wanted, rel=0.15)
