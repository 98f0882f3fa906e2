"""Which processes are explained, on looks made by hand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pagemerge.estimate.scanning import Ksmd
from pagemerge.estimate.why import Why, why
from pagemerge.find.sources import ProcessSource
from pagemerge.find.survey import summed_up
from pagemerge.linux.aside import readers
from pagemerge.linux.knobs import Knobs
from tests.unit.estimate.test_shares import look_at


def can_be(_pid: int) -> None:
    """Any process can be attached."""


def explained(most: int = 9, merged: int = -1) -> Why:
    """Of four processes with 4, 3, 2 and 1 pages; ``merged`` is one that merges well."""
    made = [("a", [[pid * 10 + at for at in range(2, 6 - pid)]]) for pid in range(4)]
    found = look_at([(domain, list(mappings)) for domain, mappings in made])
    result = summed_up(found)
    rows = [replace(it, shared_pages=it.pages if it.pid == merged else 0) for it in result.rows]
    result = replace(result, rows=rows)
    return why(found, result, most, kernel=lambda _: Ksmd(Knobs(run=0)), proc=Path("/nowhere"))


def test_the_largest_are_explained_and_the_rest_is_counted() -> None:
    assert [it.pid for it in explained(2).processes] == [0, 1]
    assert (explained(2).left_out, explained(9).left_out) == (2, 0)
    assert [it.memory_bytes for it in explained(1).processes] == [4 * 4096]


def test_a_process_that_merges_well_needs_no_reason() -> None:
    assert [it.pid for it in explained(merged=0).processes] == [1, 2, 3]


def test_a_process_that_has_gone_has_an_error() -> None:
    (one, *_) = explained().processes
    assert (one.error, one.reasons) == ("it has exited", ())


def test_one_with_too_many_mappings_is_explained_without_smaps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This process: it is there, and it has more mappings than that."""
    found = look_at([("a", [[2, 2]])])
    (source,) = found.sources
    assert isinstance(source, ProcessSource)
    source.process = replace(source.process, pid=os.getpid())
    source.mapped = 10**9
    monkeypatch.setattr("pagemerge.estimate.facts.pieces", None)
    readers.close()  # the next one has what was set here
    result = why(found, summed_up(found), check=can_be, kernel=lambda _: Ksmd())
    assert [it.kind for it in result.processes[0].reasons] == ["not marked", "no kernel KSM"]
    source.mapped = 1
    with pytest.raises(TypeError):
        why(found, summed_up(found), check=can_be)
    readers.close()


def test_errors_of_the_look_are_left_to_the_scan() -> None:
    found = look_at([("a", [[2, 2]]), ("a", [[2]])])
    (source, _) = found.sources
    assert isinstance(source, ProcessSource)
    source.error = "it has exited"
    result = why(found, summed_up(found), kernel=lambda _: Ksmd(), proc=Path("/nowhere"))
    assert [it.pid for it in result.processes] == [1]
