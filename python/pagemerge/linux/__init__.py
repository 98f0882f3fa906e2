"""What the kernel says: readers of its files. Imports ``errors`` and ``model`` only."""
