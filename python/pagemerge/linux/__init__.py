"""What the kernel says and takes. Imports ``errors`` and ``model`` only."""
