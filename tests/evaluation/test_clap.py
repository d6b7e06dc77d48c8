"""CLAP of the real architecture, tiny and with random weights."""

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor, ClapModel

from acestep.errors import UserError
from acestep.evaluation.clap import Clap
from tests.evaluation.tiny_clap import save_tiny_clap


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fused"])
def model(request, tmp_path_factory):
    return save_tiny_clap(tmp_path_factory.mktemp("clap"), fused=request.param)


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, int(48_000 * seconds), generator=torch.Generator().manual_seed(seed))


def test_each_whole_stretch_has_an_embedding_of_unit_length_the_same_every_time(model):
    clap, audio = Clap(str(model), torch.device("cpu")), noise(2.5)
    found = clap(audio, 48_000)
    assert found.shape == (2, 12)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1], abs=1e-5)
    np.random.seed(7)
    assert np.array_equal(clap(audio, 48_000), found)
    assert not np.allclose(found[0], found[1], atol=1e-4)
    assert np.allclose(clap(audio[:, 48_000:96_000], 48_000), found[1:], atol=1e-6)


def test_embeddings_are_the_models_own_of_the_mean_of_the_channels_and_of_no_longer_recording(model):
    audio = noise(1)
    extractor, released = ClapFeatureExtractor.from_pretrained(model), ClapModel.from_pretrained(model).eval()
    features = extractor(audio.mean(dim=0).numpy(), sampling_rate=48_000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = released.get_audio_features(features, torch.zeros(1, 1, dtype=torch.bool)).pooler_output
    assert np.allclose(Clap(str(model), torch.device("cpu"))(audio, 48_000), expected, atol=1e-6)


def test_what_is_shorter_is_heard_all_the_same_and_other_rates_are_resampled(model):
    clap = Clap(str(model), torch.device("cpu"))
    assert clap(noise(0.4), 48_000).shape == (1, 12)
    assert clap(noise(1.2), 96_000).shape == (1, 12)


def test_a_folder_without_the_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--clap .*: not a CLAP model that transformers can load"):
        Clap(str(tmp_path), torch.device("cpu"))
