"""How the screen looks: what stands where at which size, in the colors of Textual's themes."""

from __future__ import annotations

from collections.abc import Mapping

LOW, TALL, HIGH = 20, 30, 40
"""Lines of a screen: below the first there is no chart; from the others on panes are higher."""

SHEET = """
Screen { layout: vertical; }
#title { height: 1; background: $primary; color: $text; text-style: bold; }
#trouble { height: auto; max-height: 3; display: none; background: $error; color: $text; }
#trouble.-seen { display: block; }
#engines { height: auto; max-height: 5; padding: 0 1; }
#charts { height: 4; padding: 0 1; }
#charts Chart { width: 1fr; height: 100%; }
#memory { margin: 0 2 0 0; }
#table { height: 1fr; min-height: 3; }
#selected, #decisions { border-top: solid $primary; padding: 0 1; border-title-color: $foreground;
    border-title-style: bold; }
#selected { height: 4; }
#decisions { height: 2; }
#filter { display: none; height: 1; border: none; padding: 0 1; }
#filter.-seen { display: block; }

.-low #charts, .-low #decisions { display: none; }
.-low #selected { height: 3; }
.-tall #charts { height: 6; }
.-tall #selected { height: 5; }
.-tall #decisions { height: 5; }
.-high #charts { height: 8; }
.-high #decisions { height: 6; }

Table > .table--title { background: $panel; color: $foreground; text-style: bold; }
Table > .table--selected { background: $block-cursor-background;
    color: $block-cursor-foreground; text-style: bold; }
Table > .table--mark { color: $text-warning; text-style: bold; }
Table > .table--aside { color: $foreground-muted; }
Table > .table--bar { color: $success; }

Dialog { align: center middle; }
Dialog > #box { width: 64; max-width: 100%; height: auto; max-height: 100%; padding: 1 2;
    border: round $primary; background: $surface; }
Help > #box { width: 78; padding: 0 1; }
Help Pane { height: auto; }
Dialog #pid { margin: 1 0; height: 1; border: none; padding: 0; }

App:nocolor Table > .table--title, App:ansi Table > .table--title { text-style: bold underline; }
App:nocolor #title, App:ansi #title { text-style: bold reverse; background: ansi_default;
    color: ansi_default; }
App:nocolor Table > .table--selected { text-style: bold reverse; }
"""

THEMES = {"dark": "textual-dark", "light": "textual-light"}
FEW_COLORS = {"dark": "ansi-dark", "light": "ansi-light"}
"""Themes that use the 16 colors of the terminal, as its user has set them."""


def theme(environment: Mapping[str, str], colors: str | None) -> str:
    """Choose the theme to start with.

    ``colors``: what the terminal can show, as rich names it (None, standard, 256, truecolor).
    ``TEXTUAL_THEME`` decides, as for all programs of Textual. Else ``COLORFGBG``, which some
    terminals set, tells whether the background is light: its last number is the color of that.
    """
    if given := environment.get("TEXTUAL_THEME"):
        return given
    background = environment.get("COLORFGBG", "").rpartition(";")[2]
    mood = "light" if background in ("7", "15") else "dark"
    return (THEMES if colors in ("256", "truecolor") else FEW_COLORS)[mood]


def other(name: str) -> str:
    """Return the dark theme for the light one of the same colors, and the other way round."""
    for themes in (THEMES, FEW_COLORS):
        if name in themes.values():
            return themes["dark" if name == themes["light"] else "light"]
    return THEMES["light"]
