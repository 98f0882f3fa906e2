"""Decisions of the kernel engine: pure functions, no I/O."""
