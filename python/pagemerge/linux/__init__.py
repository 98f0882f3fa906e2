"""Reads from and writes to the kernel. Imports ``errors`` and ``model`` only."""
