"""Libraries that tests use if they are installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from tests.conftest import missing


def library(name: str) -> Any:
    """Import a library or a module of one; skip the test if the library is not installed."""
    installed(name.partition(".")[0])
    return importlib.import_module(name)


def installed(*names: str) -> None:
    """Skip the test if one of these libraries is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            missing(name, f"{name} is not installed")
