"""Questions that cannot be answered are refused before the work, with the cure."""

from __future__ import annotations

import pytest

from pagemerge.errors import OutOfMemory
from pagemerge.estimate.answer import Questions, answer
from tests.support.pages import Pages, of_letters


class Vast(Pages):
    """Claims more pages than any host can compare."""

    @property
    def total(self) -> int:
        return 1 << 45


def test_more_pages_than_this_host_can_compare() -> None:
    vast = Vast("vast", of_letters("ab"))
    with pytest.raises(OutOfMemory, match=r"35,184,372,088,832 pages .* use --sample"):
        answer(list, [vast], Questions())


def test_all_questions_about_images_alone() -> None:
    made = [Pages(name, of_letters("aab.")) for name in ("one", "two")]
    asked = Questions(what=True, group_by="process", why=True, fit="one")
    found = answer(list, made, asked)
    assert found.survey.totals.saveable_pages == 6
    assert found.contents is not None and found.contents.kinds[0].saveable_pages == 4
    assert found.sharing is not None and found.sharing.pairs[0].contents == 2
    assert found.reasons is not None and found.fit is not None
