"""Where the API may listen."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from pagemerge.errors import PagemergeError
from pagemerge.service.api.control import KernelControl
from pagemerge.service.api.server import serve
from tests.support.api import recorded
from tests.support.commands import NOBODY


@pytest.mark.requires("root")
@pytest.mark.parametrize("owner", [NOBODY, 0])
def test_a_folder_that_others_can_write_to_is_left_as_it_was(tmp_path: Path, owner: int) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, owner, owner)
    theirs.chmod(0o755 if owner else 0o777)
    with pytest.raises(PagemergeError, match=f"other users can write to {theirs}"):
        asyncio.run(serve(theirs / "api.sock", recorded, KernelControl()))
    assert not list(theirs.iterdir())
