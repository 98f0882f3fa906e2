"""How messages name types, files and the errors of others."""

from __future__ import annotations


def type_name(kind: type) -> str:
    """The name of a type as its users know it."""
    module = getattr(kind, "__module__", "builtins")  # a type that exec makes may have none
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def reason(error: BaseException) -> str:
    """The text of an error in one line, of at most 300 characters; never empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.rstrip(".")
    return text if len(text) <= 300 else text[:299] + "…"
