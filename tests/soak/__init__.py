"""A long hostile run of the user engine: ``make soak``. See ``python -m tests.soak --help``."""
