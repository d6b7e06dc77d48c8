from pathlib import Path

import pytest

from tests.train.encoded import Encoded, make_dataset, make_model


@pytest.fixture(scope="session")
def encoded(tmp_path_factory) -> Encoded:
    """Five songs of different length for a tiny base model."""
    folder = tmp_path_factory.mktemp("encoded")
    model = make_model(folder / "model")
    return Encoded(model, make_dataset(folder / "data", model, [60, 41, 75, 60, 52]))


@pytest.fixture
def train_here(encoded):
    """Train in this process, which spares the imports; returns the summary. Options are those of the script."""

    def run(output: Path, *more, data: Encoded = encoded) -> dict:
        from accelerate.state import AcceleratorState

        from acestep.options import parse_options
        from acestep.train.options import TrainOptions
        from acestep.train.run import train

        arguments = ["--dataset", data.dataset, "--pretrained_model_name_or_path", data.model, "--output_dir", output]
        AcceleratorState._reset_state(True)  # one process, several runs
        try:
            return train(parse_options(TrainOptions, "", [*map(str, [*arguments, "--cpu", *more])]))
        finally:
            AcceleratorState._reset_state(True)

    return run
