"""Decisions of the user engine: pure functions on arrays and numbers, no I/O."""
