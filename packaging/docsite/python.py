"""The Python API: what ``pagemerge`` exports, with signatures and docstrings."""

from __future__ import annotations

import inspect

import pagemerge
from docsite.text import coded, plain


def page() -> str:
    """Describe everything in ``pagemerge.__all__``."""
    exported = {name: getattr(pagemerge, name) for name in pagemerge.__all__}
    functions = {name: it for name, it in exported.items() if not isinstance(it, type)}
    errors = {name: it for name, it in exported.items() if is_error(it)}
    rest = {name: it for name, it in exported.items() if name not in {**functions, **errors}}
    parts = [
        "# Python API",
        "`import pagemerge` gives these functions and classes. "
        "[README](../README.md#use-it-from-python) has an example, and "
        "[Objects and files in Python](data.md) explains `share`, `load` and `dump`. The counters "
        "that `stats` "
        "returns are those of [`pagemerge status --socket`](json/status.md).",
        "## Functions",
    ]
    for name, function in functions.items():
        parts += [f"### {name}", f"```python\n{signature(name, function)}\n```", *text(function)]
    parts.append("## Classes")
    for name, kind in rest.items():
        parts += [f"### {name}", *text(kind)]
    parts += ["## Exceptions", "\n".join(["| exception | also a | meaning |", "|---|---|---|"])]
    for name, error in errors.items():
        others = [it.__name__ for it in error.__bases__ if it.__module__ == "builtins"]
        others = [f"`{it}`" for it in others if it != "Exception"]
        about = " ".join(text(error))
        parts[-1] += f"\n| `{name}` | {', '.join(others)} | {about} |"
    return "\n\n".join(parts) + "\n"


def is_error(exported: object) -> bool:
    """True for an exception."""
    return isinstance(exported, type) and issubclass(exported, BaseException)


def signature(name: str, function: object) -> str:
    """Write the signature of a function as its source has it."""
    assert callable(function)
    found = inspect.signature(function)
    shown = [
        str(it).replace("'", "")
        if it.default is not float
        else f"{it.name}: {it.annotation} = float"
        for it in found.parameters.values()
    ]
    named = [it.kind is it.KEYWORD_ONLY for it in found.parameters.values()]
    if True in named:
        shown.insert(named.index(True), "*")
    returned = str(found.return_annotation)
    if returned.startswith("Iterator["):
        return f"with pagemerge.{name}({', '.join(shown)}): ..."
    return f"pagemerge.{name}({', '.join(shown)}) -> {returned}"


def text(exported: object) -> list[str]:
    """Return the paragraphs of a docstring."""
    return [
        plain(coded(" ".join(it.split())))
        for it in inspect.cleandoc(exported.__doc__ or "").split("\n\n")
    ]
