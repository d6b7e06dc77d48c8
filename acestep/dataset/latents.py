"""Audio to latents: the VAE's posterior, in tiles whose result equals one shot."""

import math

import torch
from torch import nn

from acestep.models.allocator import keep_freed_memory

TILE_OVERLAP_SECONDS = 1  # the encoder reaches some 0.3 s to each side


def set_tiles(vae: nn.Module, tile_seconds: int) -> None:
    """Bound the VAE's memory: audio longer than a tile is encoded in overlapping ones.

    Args:
        tile_seconds: length of a tile with its overlaps; at least 4.
    """
    if vae.device.type == "cpu":
        keep_freed_memory()
    vae.enable_tiling()
    vae.tile_sample_min_length = tile_seconds * vae.config.sampling_rate
    vae.tile_sample_overlap = TILE_OVERLAP_SECONDS * vae.config.sampling_rate


@torch.no_grad()
def encode_audio(vae: nn.Module, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The posterior of a song.

    Args:
        waveform: `[channels, samples]` at the VAE's rate; the last frame is filled up with silence.

    Returns:
        Mean and standard deviation, each `[frames, latent channels]` float32 on the CPU, `frames` being
        `ceil(samples / hop)`, as many as the pipeline makes for this duration.
    """
    hop = math.prod(vae.config.downsampling_ratios)
    missing = -waveform.shape[-1] % hop
    audio = torch.nn.functional.pad(waveform, (0, missing))[None].to(vae.device, vae.dtype)
    posterior = vae.encode(audio).latent_dist
    mean, std = (part[0].transpose(0, 1).float().cpu().contiguous() for part in (posterior.mean, posterior.std))
    return mean, std
