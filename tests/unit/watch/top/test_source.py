"""Recordings: what is read, and what is said of lines that are no moments."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pagemerge.errors import PagemergeError, UsageError
from pagemerge.watch.top import source
from pagemerge.watch.top.source import Ended, Recording
from tests.support.moments import recording, write


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    moments = recording(3, 5)
    with Recording(write(tmp_path / "file", moments)) as read:
        assert list(read) == moments
        with pytest.raises(Ended, match="has ended"):
            read()


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Recording(tmp_path / "none")
    with pytest.raises(UsageError, match="directory"):
        Recording(tmp_path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"nonsense", "malformed"),
        (b"{}", "time"),
        (b'{"time": 1.0, "host": {"total_bytes": "x"}}', "total_bytes"),
        (b'{"time": 1e300, "host": {"total_bytes": 1}}', "time"),
        (b'{"time": 1e11, "host": {"total_bytes": 1}}', "time"),
        (b'{"time": -1, "host": {"total_bytes": 1}}', "time"),
        (b'{"time": 1, "host": {"total_bytes": 99999999999999999999999}}', "total_bytes"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_line_that_is_no_moment_is_named_and_passed_over(
    line: bytes, why: str, tmp_path: Path
) -> None:
    good = recording(1, 1)[0]
    encoded = msgspec.json.encode(good)
    (tmp_path / "file").write_bytes(encoded + b"\n" + line + b"\n" + encoded + b"\n")
    with Recording(tmp_path / "file") as read:
        assert read() == good
        with pytest.raises(PagemergeError, match=f"line 2 is not a moment.*{why}"):
            read()
        assert read() == good


def test_a_line_that_is_too_long_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = recording(1, 1)[0]
    monkeypatch.setattr(source, "LONGEST", 4000)
    (tmp_path / "file").write_bytes(b"x" * 13_000 + b"\n" + msgspec.json.encode(good) + b"\n")
    with Recording(tmp_path / "file") as read:
        with pytest.raises(PagemergeError, match="more than 4,000 bytes"):
            read()
        assert read() == good


@given(data=st.data())
def test_no_damage_to_a_line_is_more_than_an_error_of_ours(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    told = json.loads(msgspec.json.encode(recording(4, 2)[3]))
    values: st.SearchStrategy[object] = st.sampled_from(
        [None, -1, 1e308, 2**70, "", "\x1b", [], {}, True, 0.5]
    )
    place = data.draw(st.sampled_from([told, told["host"], told["rows"][0], told["decisions"][0]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(values)
    path = tmp_path_factory.mktemp("damage") / "file"
    path.write_text(json.dumps(told) + "\n")
    with Recording(path) as read:
        try:
            moment = read()
        except PagemergeError:
            return
    assert source.checked(replace(moment)) == moment
