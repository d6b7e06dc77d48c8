"""The demo's model: a codec that works before any training, and training that lowers what it should."""

import numpy as np
import pytest
import torch
from diffusers import AceStepPipeline

from acestep.models.tiny import save_tiny_pipeline
from acestep.models.tiny_codec import (
    LATENT_CHANNELS,
    POSTERIOR_STD,
    new_codec,
    new_narrow_encoder,
    scale_latents,
    widen,
    write_inverse_transform,
)
from acestep.models.tiny_training import PracticeSong, train_tiny_model


def _tones(seconds):
    """Two chords of sines, panned, under 600 Hz: `[samples, 2]` float32."""
    time = np.arange(round(seconds * 48_000)) / 48_000
    left = sum(np.sin(2 * np.pi * f * time) for f in (110.0, 220.0, 277.2)) * (1 + np.sin(2 * np.pi * 2 * time))
    right = sum(np.sin(2 * np.pi * f * time) for f in (110.0, 329.6, 440.0))
    return (0.1 * np.stack([left, 0.6 * left + 0.4 * right], axis=1)).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    narrow, vae = new_narrow_encoder(), new_codec()
    write_inverse_transform(vae.decoder)
    widen(narrow, vae.encoder)
    return narrow, vae


@torch.no_grad()
def test_the_wide_encoder_computes_what_the_narrow_one_does(codec):
    narrow, vae = codec
    audio = torch.randn(1, 2, 12 * 1920) * 0.2
    torch.testing.assert_close(vae.encoder(audio), narrow(audio), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_untrained_codec_gives_low_tones_back(codec):
    _, vae = codec
    audio = torch.from_numpy(_tones(2.0)).T[None]
    posterior = vae.encode(audio).latent_dist
    assert posterior.mean.shape == (1, 64, 50)
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.std, POSTERIOR_STD), atol=2e-4, rtol=0)
    inner = slice(3840, -3840)  # the first and last frames lack their neighbours
    error = (vae.decode(posterior.mean).sample - audio)[..., inner]
    assert 10 * torch.log10(audio[..., inner].pow(2).mean() / error.pow(2).mean()) > 10


@torch.no_grad()
def test_scaled_latents_decode_to_the_same_audio():
    torch.manual_seed(1)
    narrow, vae = new_narrow_encoder(), new_codec()
    write_inverse_transform(vae.decoder)
    audio = torch.randn(1, 2, 6 * 1920) * 0.2
    latents = narrow(audio)[:, :LATENT_CHANNELS]
    decoded = vae.decoder(latents)
    factors = torch.linspace(0.5, 4, LATENT_CHANNELS)
    scale_latents(narrow, vae.decoder, factors)
    scaled = narrow(audio)[:, :LATENT_CHANNELS]
    torch.testing.assert_close(scaled, latents * factors[:, None], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(vae.decoder(scaled), decoded, atol=1e-4, rtol=1e-3)


def _train(seed, **steps):
    songs = [PracticeSong(_tones(2.0) * gain, "a chord", bpm=100, keyscale="A major") for gain in (1.0, 0.7, 0.9)]
    sizes = {"num_hidden_layers": 2, "encoder_hidden_size": 32}
    return train_tiny_model(songs, seed, held_out=1, segment_frames=32, sizes=sizes, report=lambda line: None, **steps)


def test_a_few_steps_lower_both_losses_and_the_result_opens_as_a_pipeline(tmp_path):
    components, figures = _train(0, decoder_steps=6, flow_steps=12)
    assert figures.spectral_distance[1] < figures.spectral_distance[0]
    assert figures.flow_loss[1] < 0.97 * figures.flow_loss[0]
    save_tiny_pipeline(components, tmp_path)
    pipeline = AceStepPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.vae.hop_length == 1920
    silence = pipeline.vae.encode(torch.zeros(1, 2, 21 * 1920)).latent_dist.mean
    torch.testing.assert_close(silence[0, :, 10], pipeline.condition_encoder.silence_latent[0, 7000])
    audio = pipeline("a chord", lyrics="la", audio_duration=2.0, num_inference_steps=3, output_type="np").audios
    assert audio.shape == (1, 2, 96_000)
    assert np.isfinite(audio).all()


def test_the_same_seed_trains_the_same_model():
    first, second, other = (_train(seed, decoder_steps=1, flow_steps=1)[0] for seed in (1, 1, 2))
    for name in ("vae", "transformer", "condition_encoder"):
        states = [components[name].state_dict() for components in (first, second, other)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_too_few_or_too_short_songs_are_refused():
    song = PracticeSong(_tones(4.0), "short", bpm=100, keyscale="A major")
    with pytest.raises(
        ValueError, match=r"3 songs of 100 frames and more; expected over 2, each of at least 128 frames"
    ):
        train_tiny_model([song] * 3)
