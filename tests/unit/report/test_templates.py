"""The style sheet: text can be read in both themes, and every colour that is used is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pagemerge.report import page

TEMPLATES = Path(page.__file__).with_name("templates")
STYLE = (TEMPLATES / "style.css").read_text()


def colours(theme: str) -> dict[str, str]:
    """Name -> colour, as the macro of a theme sets it."""
    found = re.search(rf"macro {theme}\(\) %}}(.*?)\{{% endmacro", STYLE, re.S)
    assert found is not None
    return dict(re.findall(r"--([\w]+): (#\w+);", found[1]))


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * it for it in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in parts]
    return sum(it * weight for it, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast ratio (WCAG 2.2, 1.4.3)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_stand_out(theme: str) -> None:
    found = colours(theme)
    for text in ("ink", "soft", "link"):
        for ground in ("paper", "tint"):
            assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
    assert contrast(found["focus"], found["paper"]) >= 3
    assert contrast(found["ink"], found["across"]) >= 3, "the ends of an interval lie on that bar"
    for saved in ("within", "barred", "volatile", "shared"):
        assert contrast(found[saved], found["paper"]) >= 3, saved


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_shades_of_the_matrix_go_one_way(theme: str) -> None:
    found = colours(theme)
    shades = [luminance(found[f"level{level}"]) for level in range(1, 7)]
    assert shades == sorted(shades, reverse=theme == "light")
    assert all(contrast(found[f"level{at}"], found[f"level{at + 1}"]) > 1.2 for at in range(1, 6))


def test_both_themes_have_the_same_colours_and_all_are_there() -> None:
    assert colours("light").keys() == colours("dark").keys()
    used = set(re.findall(r"var\(--(\w+)\)", STYLE))
    assert used == colours("light").keys()


def test_no_template_switches_escaping_off() -> None:
    for template in TEMPLATES.rglob("*.html"):
        text = template.read_text()
        assert "safe" not in re.findall(r"\w+", text), template
        assert "autoescape" not in text and " style=" not in text and " on" + "click" not in text
