"""The services of ``examples/`` run, with little data, and answer right.

The recipes are those of ``benchmarks/services.py``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.lab.recipes import RECIPES
from benchmarks.lab.recipes.base import EXAMPLES, Recipe, Site, Under, group_of

from pagemerge.errors import Unsupported
from tests.conftest import missing


@pytest.fixture(params=RECIPES)
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


def test_a_service_answers_right(recipe: Recipe) -> None:
    with recipe.start(Under()) as service:
        assert service.check() == 0
        done = service.load(0.3)
        assert done.wrong == 0 and done.requests > 10 and done.p99_ms > 0
        assert service.check() == 0
        assert len(group_of(service)) > 1


def test_the_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for folder in EXAMPLES.iterdir():
        assert not folder.is_dir() or f"({folder.name}/" in text, folder.name
