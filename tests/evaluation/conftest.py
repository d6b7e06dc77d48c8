"""Fixtures of the training's tests, and an adapter with held-out songs."""

import pytest

from tests.train.conftest import encoded, train_here  # noqa: F401
from tests.train.encoded import make_dataset


@pytest.fixture(scope="session")
def held(encoded, tmp_path_factory):  # noqa: F811
    """Six rows of five songs that are not among the five of `encoded`; the last two are segments of one."""
    ids = [f"{9 + number:032x}" for number in (0, 1, 2, 3, 4, 4)]
    return make_dataset(
        tmp_path_factory.mktemp("held") / "data",
        encoded.model,
        [60, 112, 71, 100, 55, 64],
        ids=ids,
        bpm=120,
        keyscale="A minor",
    )
