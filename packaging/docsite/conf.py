"""Sphinx's configuration of the site."""

from pagemerge import __version__

project = "pagemerge"
release = version = __version__
copyright = "pagemerge's developers"
extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"pagemerge {__version__}"
html_theme_options = {"source_repository": "https://github.com/pagemerge/pagemerge"}
html_copy_source = False
smartquotes = False  # it makes one dash of the two of an option
# Examples of shells have prompts and other languages' parts that no lexer knows whole.
suppress_warnings = ["misc.highlighting_failure"]
highlight_language = "text"
