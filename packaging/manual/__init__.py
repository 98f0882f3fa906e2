"""Man pages and completions, generated from the parsers of the command line and the settings.

Needs an importable pagemerge with its core: the build back end runs this on the wheel that it has
just built. ``python -m manual FOLDER`` writes the files below ``FOLDER/share``, where an installed
program has them.
"""
