"""What ``--json`` prints has the members that the reference says, and no others."""

from __future__ import annotations

import json
import time
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from docsite import models
from docsite.objects import PRINTED

from pagemerge.watch.history import History
from tests.conftest import Spawn
from tests.support.commands import command
from tests.support.hubs import Hub
from tests.unit.watch.moments import kernel, moment, row, user

OBJECTS = {name: model for roots in PRINTED.values() for name, model in roots.items()}
QUESTIONS = ["--what", "--why", "--group-by", "process", "--watch", "0.1", "--compress"]


def optional(model: type) -> frozenset[str]:
    """Members that an object may lack."""
    found: frozenset[str] = getattr(model, "__optional_keys__", frozenset())
    return found


def strays(value: Any, hint: Any, where: str = "") -> Iterator[str]:
    """Where a value has members that its model lacks, or lacks members that the model has."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [it for it in inner if it is not type(None)]
        if value is not None and len(kinds) == 1:
            yield from strays(value, kinds[0], where)
    elif models.is_model(hint):
        members = {it.name: it.hint for it in models.fields(hint)}
        wanted = members.keys() - optional(hint)
        yield from (f"{where}.{it} is not in the reference" for it in value.keys() - members.keys())
        yield from (f"{where}.{it} is not printed" for it in wanted - value.keys())
        for name in value.keys() & members.keys():
            yield from strays(value[name], members[name], f"{where}.{name}")
    elif origin in (list, tuple):
        assert isinstance(value, list), where
        for at, one in enumerate(value):
            yield from strays(one, inner[0], f"{where}[{at}]")
    elif origin is dict:
        for name, one in value.items():
            yield from strays(one, inner[1], f"{where}[{name}]")
    elif hint in (int, str, bool, float):
        known = (int, float) if hint is float else hint
        if not isinstance(value, known):
            yield f"{where} is {value!r}, not {hint.__name__}"
    else:
        assert hint in (Any, object) or origin is typing.Literal, hint


def printed(*words: str, rc: tuple[int, ...] = (0,)) -> Any:
    done = command(*words, "--json")
    assert done.returncode in rc, done.stderr
    return json.loads(done.stdout)


def test_strays_are_found() -> None:
    """The comparison itself finds what is missing, too much, or of another type."""
    model = OBJECTS["pagemerge config show --json"]
    good = printed("config", "show")
    assert not list(strays(good, model))
    bad = {**good, "more": 1, "settings": [{**good["settings"][0], "line": "one"}]}
    del bad["file"], bad["settings"][0]["from"]
    assert sorted(it.partition(" is ")[0] for it in strays(bad, model)) == [
        ".file",
        ".more",
        ".settings[0].from",
        ".settings[0].line",
    ]


@pytest.mark.parametrize("name", ["pagemerge doctor --json", "pagemerge config show --json"])
def test_what_looks_at_the_host(name: str) -> None:
    verbs = name.split()[1:-1]
    assert not list(strays(printed(*verbs, rc=(0, 77)), OBJECTS[name]))


def test_scan_with_all_questions(victim: Spawn) -> None:
    pids = [str(victim("pages", "seed", "1", "pages", "8", "8", "64").pid) for _ in range(2)]
    found = printed("scan", *pids, *QUESTIONS, "--fit", pids[0])
    model = OBJECTS["pagemerge scan --json"]
    assert not list(strays(found, model))
    assert optional(model) <= found.keys(), "a question has no answer"
    sampled = printed("scan", "--sample", *pids)
    assert not list(strays(sampled, OBJECTS["pagemerge scan --sample --json"]))


@pytest.mark.requires("uffd")
def test_demo() -> None:
    assert not list(
        strays(printed("demo", "--workers", "2", "--size", "4"), OBJECTS["pagemerge demo --json"])
    )


def test_status(victim: Spawn, hub_socket: Path) -> None:
    victim("pages", "seed", "1", "pages", "8", "8", "64")
    found = printed("status", rc=(0, 1))
    assert not list(strays(found, OBJECTS["pagemerge status --json"]))


def test_status_of_one_hub(hub: Hub) -> None:
    found = printed("status", "--socket", str(hub.socket))
    assert not list(strays(found, OBJECTS["pagemerge status --socket SOCKET --json"]))


def test_history(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with History(path) as history:
        for ago in (20, 10):
            history.add(moment(time.time() - ago, user=user(), kernel=kernel(), rows=(row(1),)))
    found = printed("history", "--since", "1h", "--file", str(path))
    assert len(found["moments"]) == 2
    assert not list(strays(found, OBJECTS["pagemerge history --json"]))


@pytest.mark.requires("kernel", "root")
def test_attach_and_detach(victim: Spawn) -> None:
    pid = str(victim("pages", "seed", "1", "pages", "8", "8", "64").pid)
    words = ("--dry-run", pid)
    chosen = printed("attach", "--select", *words)
    assert chosen["selection"]
    assert not list(strays(chosen, OBJECTS["pagemerge attach --json"]))
    assert not list(strays(printed("detach", *words), OBJECTS["pagemerge detach --json"]))
