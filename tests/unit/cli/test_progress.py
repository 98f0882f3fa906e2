"""Progress on standard error that is no terminal: a line now and then, and one at the end."""

from __future__ import annotations

import pytest

from pagemerge.cli.show import progress


def test_lines_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.separating(3_000_000) as tell:
        for _ in range(30):
            tell(100_000)
    said, lines = capsys.readouterr()
    assert said == ""
    first, *rest = lines.splitlines()
    assert first == "separating: 100 kB of 3.0 MB"
    assert rest[-1] == "separating: 3.0 MB of 3.0 MB"
    assert len(rest) < 10


def test_nothing_is_said_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.separating(0), progress.looking() as look:
        look(1, 2)
    assert capsys.readouterr() == ("", "")
