"""Sphinx's configuration of the site."""

import re

from pagemerge import __version__

REPOSITORY = "https://github.com/pagemerge/pagemerge/blob/main/"

project = "pagemerge"
release = version = __version__
copyright = "pagemerge's developers"
extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"pagemerge {__version__}"
html_theme_options = {"source_repository": REPOSITORY.removesuffix("blob/main/")}
html_copy_source = False
# Examples of shells have prompts and other languages' parts that no lexer knows whole.
suppress_warnings = ["misc.highlighting_failure"]
highlight_language = "text"


def setup(app):  # type: ignore[no-untyped-def]
    """Have links to files outside docs/ lead to the repository."""

    def linked(_app, _page, source):  # type: ignore[no-untyped-def]
        source[0] = re.sub(r"\]\(\.\./([^)]+)\)", rf"]({REPOSITORY}\1)", source[0])

    app.connect("source-read", linked)
