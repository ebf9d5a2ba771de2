"""The drop-ins over the batches of several processes; what they run is in ``ranks.py``."""

import pytest

from tests.compat.launch import on_ranks


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("originals", ["lightly", "formulas"])
def test_gather(request, ranks, originals):
    if originals == "lightly":
        request.getfixturevalue("lightly")
    on_ranks("tests.compat.ranks", ranks, originals)
