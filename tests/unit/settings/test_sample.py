"""The sample is right as it is, and with any of its lines uncommented."""

from __future__ import annotations

import re
from typing import Literal

import msgspec
import pytest

from pagemerge.config import Configuration
from pagemerge.settings.check import check
from pagemerge.settings.page import markdown
from pagemerge.settings.sample import example, sample
from pagemerge.settings.schema import keys, tables

SAMPLE = sample(Configuration, "pagemerge config init")
LINES = SAMPLE.split("\n")


def configuration(lines: list[str]) -> Configuration:
    found = check("\n".join(lines).encode(), Configuration)
    assert found.value is not None, found.problems
    return found.value


def test_as_it_is_it_has_the_defaults() -> None:
    assert configuration(LINES) == Configuration()


def test_with_every_line_uncommented_it_is_right() -> None:
    found = configuration([re.sub("^# ?", "", line) for line in LINES])
    assert (found.hub, len(found.rule)) == (Configuration().hub, 1)
    for key in keys(type(found.rule[0])):
        assert getattr(found.rule[0], key.name) == example(key)
    # The settings alone, and twice as much as editors remove.
    settings = [line[2:] if line.startswith("# ") else line for line in LINES]
    assert configuration(settings) == found


@pytest.mark.parametrize("line", [it for it in LINES if re.match(r"# \w+ = ", it)])
def test_with_one_line_uncommented_it_is_right(line: str) -> None:
    at = LINES.index(line)
    lines = [*LINES[:at], line[2:], *LINES[at + 1 :]]
    if at > LINES.index("# [[rule]]"):
        lines[LINES.index("# [[rule]]")] = "[[rule]]"
        # What each rule needs.
        lines += ['opt = "in"'] * (" opt =" not in line)
        lines += ['user = "x"'] * (not re.search(r" (cgroup|unit|user|command|guest) =", line))
    configuration(lines)


def test_every_key_is_there_once_with_what_it_means() -> None:
    for table in tables(Configuration):
        part = SAMPLE.partition(f"{table.header}\n")[2].partition("\n\n\n")[0]
        assert re.findall(r"^# (\w+) = ", part, re.M) == [key.name for key in table.keys]
        words = " ".join(part.replace("\n## ", " ").split())
        assert all(key.about in words for key in table.keys)
    assert max(map(len, LINES)) <= 96
    assert all(re.match(r"## |# \w+ = |(# )?\[|$", line) for line in LINES)


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A table in a table."""

    timeout_seconds: float = 1.5
    """How long to wait."""


class Service(msgspec.Struct, forbid_unknown_fields=True):
    """A table that pagemerge does not have."""

    engines: list[Literal["user", "kernel"]] = msgspec.field(default_factory=lambda: ["user"])
    """Engines to run."""
    inner: Inner = msgspec.field(default_factory=Inner)


class Root(msgspec.Struct, forbid_unknown_fields=True):
    """Tables that pagemerge does not have."""

    service: Service = msgspec.field(default_factory=Service)


class Lacking(msgspec.Struct):
    """A key that has neither default nor example."""

    name: str = ""


class Fault(msgspec.Struct):
    """The table with that key."""

    table: Lacking = msgspec.field(default_factory=Lacking)


def test_it_works_on_any_tables() -> None:
    text = sample(Root, "x")
    assert '[service]\n\n## Engines to run.\n## List of text, each "kernel" or "user".\n' in text
    assert '# engines = ["user"]\n\n\n## A table in a table.\n[service.inner]\n' in text
    assert "## How long to wait.\n## Number; unit: seconds.\n# timeout_seconds = 1.5\n" in text
    assert check(re.sub("^# ?", "", text, flags=re.M).encode(), Root).value == Root()
    page = markdown(Root)
    assert '| `engines` | list of text | `["user"]` | each "kernel" or "user" |  | Engines' in page
    assert "## [service.inner]" in page


def test_a_key_without_default_and_example_is_a_fault_of_ours() -> None:
    with pytest.raises(TypeError, match=r"name has no default: .*examples"):
        sample(Fault, "x")
