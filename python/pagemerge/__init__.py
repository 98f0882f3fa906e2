"""pagemerge: find identical memory pages, keep one copy of each, share it copy-on-write."""

from __future__ import annotations

__version__ = "0.1.0"
