from pathlib import Path

import pytest
import torch

from acestep.models.checkpoint import Checkpoint
from tests.adapters.making import make_adapter
from tests.train.encoded import make_model


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """A tiny model of each geometry in diffusers' layout."""
    folder = tmp_path_factory.mktemp("models")
    return {variant: make_model(folder / variant, 3, variant) for variant in ("base", "xl")}


@pytest.fixture(scope="session")
def made(models, tmp_path_factory):
    """Adapters as the trainer saves them, each made once: `made(kind, geometry)` is a `Made`."""
    kept = {}

    def get(kind: str, geometry: str = "base"):
        if (kind, geometry) not in kept:
            transformer = Checkpoint(str(models[geometry])).transformer(torch.float32)
            kept[kind, geometry] = make_adapter(kind, transformer, tmp_path_factory.mktemp(f"{kind}-{geometry}"))
        return kept[kind, geometry]

    return get
