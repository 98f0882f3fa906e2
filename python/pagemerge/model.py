"""Definitions that all packages share: pages, digests, groups of equal pages. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy takes longer to import than the whole command line
    import numpy as np
    import numpy.typing as npt

PAGE_SIZE = 4096
"""Bytes in a page; the import of ``_core`` fails on a host with another page size."""

ABSENT = 0
"""The digest of a page that was not looked at."""
ZERO = 1
"""The digest of a page of zeros."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Elements of a digest array that share their digest with at least one other."""

    members: npt.NDArray[np.int64]
    """int64[m]: indices of the elements, group after group, ascending inside each."""
    starts: npt.NDArray[np.int64]
    """int64[groups + 1]: where each group starts in ``members``; the last is m."""

    def __len__(self) -> int:
        return len(self.starts) - 1
