"""What is duplicated, in words and bars."""

from __future__ import annotations

from pagemerge.report import contents
from pagemerge.report.given import Given, Room
from tests.support import figures


def drawn(found: dict[str, object]) -> contents.Contents:
    made = contents.section(Given({"contents": found}), Room())
    assert made is not None and isinstance(made.content, contents.Contents)
    return made.content


def kind(name: str, saves: int, **more: object) -> dict[str, object]:
    return {"kind": name, "saveable_bytes": saves, "contents": 2, "copies": 5, **more}


def test_kinds_are_bars_the_largest_first() -> None:
    found = drawn({"kinds": [kind("text", 100), kind("zeros", 400), kind("strange", 200)]})
    assert [it.label for it in found.kinds.rows] == ["zeros", "strange", "text"]
    assert [it.width for it in found.kinds.rows] == ["100%", "50%", "25%"]
    assert found.kinds.rows[0].note == "5 copies of 2 contents"
    assert found.files is None


def test_a_note_names_holders_and_mappings() -> None:
    names = {"a": 1, "b": 9, "c": 5, "d": 2}
    found = drawn({"kinds": [kind("text", 1, copies_by_name=names, copies_by_mapping={"heap": 3})]})
    assert found.kinds.rows[0].note == (
        "5 copies of 2 contents; in b, c, d and 1 more; mappings: heap"
    )


def test_files_are_bounded() -> None:
    made = contents.section(Given(figures.host()), Room())
    assert made is not None and isinstance(made.content, contents.Contents)
    files = made.content.files
    assert files is not None and len(files.rows) == contents.FILES
    assert files.more == "Left out: 18 more files that save less."
    assert files.rows[0].note.startswith("build id ") and not files.rows[1].note
    assert made.words[0] == "Most is saved by zeros: 944 MB."


def test_a_content_is_shown_by_its_bytes() -> None:
    def told(**fields: object) -> str:
        return drawn({"kinds": [kind("text", 1)], "top": [fields]}).top[0].told

    assert told(kind="text", first_bytes=b"hello\x1b\n\0\0".hex()) == "hello\\x1b\\n"
    assert told(kind="text", first_bytes=("é" * 40).encode().hex()).startswith("éé")
    assert told(kind="unknown", first_bytes=bytes(range(48)).hex()) == (
        "0001020304050607 08090a0b0c0d0e0f"
    )
    assert told(kind="repeated word", first_bytes="ab" * 48) == "ab" * 8
    assert told(kind="file", file="/lib/a.so", file_page=1200) == "/lib/a.so page 1,200"
    assert told(kind="unknown", first_bytes="no hex") == ""
    assert told(kind="text") == ""
