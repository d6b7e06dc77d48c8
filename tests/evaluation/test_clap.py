"""CLAP of the real architecture, tiny and with random weights."""

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from acestep.errors import UserError
from acestep.evaluation.clap import Clap

SIZES = {"hidden_size": 32, "num_attention_heads": [2, 2], "depths": [1, 1], "patch_embeds_hidden_size": 16}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "fused"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    config = ClapConfig(
        projection_dim=12,
        text_config={
            **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
            **{"vocab_size": 30, "max_position_embeddings": 20, "projection_dim": 12},
        },
        audio_config={
            **SIZES,
            **{
                "projection_dim": 12,
                "spec_size": 64,
                "num_mel_bins": 16,
                "window_size": 4,
                "enable_fusion": request.param,
            },
            **{"num_hidden_layers": 2, "aff_block_r": 2},
        },
    )
    torch.manual_seed(0)
    ClapModel(config).save_pretrained(folder)
    truncation = "fusion" if request.param else "rand_trunc"
    ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation=truncation).save_pretrained(folder)
    return folder


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


def test_what_is_shorter_is_heard_all_the_same_and_other_rates_are_resampled(model):
    clap = Clap(str(model), torch.device("cpu"))
    assert clap(noise(0.4), 48_000).shape == (1, 12)
    assert clap(noise(1.2), 96_000).shape == (1, 12)


def test_a_folder_without_the_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--clap .*: not a CLAP model that transformers can load"):
        Clap(str(tmp_path), torch.device("cpu"))
