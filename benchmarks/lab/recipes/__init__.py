"""The services of ``examples/``: how each is started, loaded, and checked.

A recipe makes its data once (``prepare``), starts a group of processes under an engine (``start``),
has them work for a while (``load``), and asks whether their answers are right (``check``).
"""

from .base import Recipe
from .http import HTTP
from .loader import LOADERS
from .postgres import Postgres
from .redis import Redis

RECIPES: dict[str, Recipe] = {it.name: it for it in (*HTTP, Redis(), *LOADERS, Postgres())}
