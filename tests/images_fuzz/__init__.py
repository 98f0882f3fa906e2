"""Damaged memory images, a million of them: a parser may refuse them, and nothing else."""
