"""A CLAP model of the real architecture, tiny and with random weights, that hears a second at once."""

from pathlib import Path

import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

DIMENSIONS = 12


def save_tiny_clap(folder: Path, fused: bool = False) -> Path:
    """Write the model with its feature extractor.

    Args:
        fused: of the kind that can fuse a long recording's pieces.
    """
    config = ClapConfig(
        projection_dim=DIMENSIONS,
        text_config={
            **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
            **{"vocab_size": 30, "max_position_embeddings": 20, "projection_dim": DIMENSIONS},
        },
        audio_config={
            **{"hidden_size": 32, "num_attention_heads": [2, 2], "depths": [1, 1], "patch_embeds_hidden_size": 16},
            **{"projection_dim": DIMENSIONS, "spec_size": 64, "num_mel_bins": 16, "window_size": 4},
            **{"num_hidden_layers": 2, "aff_block_r": 2, "enable_fusion": fused},
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ClapModel(config).save_pretrained(folder)
    truncation = "fusion" if fused else "rand_trunc"
    ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation=truncation).save_pretrained(folder)
    return folder
