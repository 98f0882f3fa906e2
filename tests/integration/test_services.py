"""The services of ``examples/`` run, with little data, and answer right, merged or not.

The recipes are those of ``benchmarks/services.py``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.lab.recipes import RECIPES
from benchmarks.lab.recipes.base import EXAMPLES, Recipe, Site, Under, group_of

from pagemerge.errors import Unsupported
from tests.conftest import missing
from tests.support.commands import PAGEMERGE
from tests.support.hubs import PATIENCE, TICK, Hub

ALL = [*PAGEMERGE, "run", "--all", "--"]
NAMES = ["model", "gunicorn", "prefork", "loader", "torch", "redis", "python", "postgres"]
"""What starts slowly is left to ``test_recipes_page.py``; what is a variant of another one, too."""
LITTLE = {"postgres"}
"""With so few data, each of their processes has less memory than is worth an agent."""


@pytest.fixture(params=NAMES)
def recipe(request: pytest.FixtureRequest) -> Iterator[Recipe]:
    """A recipe with its data."""
    found = RECIPES[request.param]
    with tempfile.TemporaryDirectory(prefix="pagemerge-test-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as a user of its own
        try:
            found.prepare(Site(Path(folder), small=True))
        except Unsupported as lack:
            missing("services", str(lack))
        yield found


@pytest.mark.requires("uffd")
def test_a_service_answers_right_while_it_is_merged(recipe: Recipe, hub: Hub) -> None:
    with recipe.start(Under()) as plain:
        assert plain.check() == 0
        assert len(group_of(plain)) > 1
        done = plain.load(0.2)
        assert done.wrong == 0 and done.requests > 10 and done.p99_ms > 0
    hub.socket.parent.chmod(0o711)
    with recipe.start(Under(ALL, {**os.environ, **hub.env})) as service:
        deadline = time.monotonic() + PATIENCE
        while recipe.name not in LITTLE and not hub.status().pages_sharing:
            assert time.monotonic() < deadline, f"nothing is merged:\n{hub.log()}"
            time.sleep(TICK)
        assert service.load(0.5).wrong == 0
        assert service.check() == 0


def test_the_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for folder in EXAMPLES.iterdir():
        assert not folder.is_dir() or f"({folder.name}/" in text, folder.name
