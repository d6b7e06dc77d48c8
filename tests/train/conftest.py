import pytest

from tests.train.encoded import Encoded, make_dataset, make_model


@pytest.fixture(scope="session")
def encoded(tmp_path_factory) -> Encoded:
    """Five songs of different length for a tiny base model."""
    folder = tmp_path_factory.mktemp("encoded")
    model = make_model(folder / "model")
    return Encoded(model, make_dataset(folder / "data", model, [60, 41, 75, 60, 52]))
