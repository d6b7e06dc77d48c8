"""The tiny pipeline looks to its users like a released one."""

import numpy as np
import pytest
import torch
from diffusers import AceStepPipeline

from acestep.models.tiny import encode_silence, save_tiny_pipeline, tiny_components, tiny_tokenizer


def _weights(components):
    return {
        f"{name}.{key}": tensor
        for name, component in components.items()
        if isinstance(component, torch.nn.Module)
        for key, tensor in component.state_dict().items()
    }


@pytest.fixture(scope="module")
def components():
    return tiny_components(seed=3)


def test_the_geometry_is_that_of_the_released_models(components):
    vae, transformer, conditions = (components[name] for name in ("vae", "transformer", "condition_encoder"))
    assert (vae.config.sampling_rate, vae.hop_length, vae.config.audio_channels) == (48_000, 1920, 2)
    assert (transformer.config.in_channels, transformer.config.audio_acoustic_hidden_dim) == (192, 64)
    assert (transformer.config.patch_size, transformer.config.sliding_window) == (2, 128)
    assert transformer.layer_types == ["sliding_attention", "full_attention"] * 2
    assert conditions.silence_latent.shape == (1, 15_000, 64)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first, second, other = (_weights(tiny_components(seed, latent_channels=8)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["transformer.proj_in_conv.weight"], other["transformer.proj_in_conv.weight"])


@pytest.mark.parametrize("variant", ["base", "turbo", "xl"])
def test_the_saved_pipeline_opens_and_generates_finite_audio(variant, tmp_path):
    components = tiny_components(0, variant, latent_channels=8)
    save_tiny_pipeline(components, tmp_path)
    pipeline = AceStepPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    saved = _weights(components)
    assert all(torch.equal(saved[key], tensor) for key, tensor in _weights(pipeline.components).items())
    assert pipeline.is_turbo == (variant == "turbo")
    audio = pipeline("bright", lyrics="la", audio_duration=2.0, num_inference_steps=2, output_type="np").audios
    assert audio.shape == (1, 2, 96_000)
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() == pytest.approx(10 ** (-1 / 20), rel=1e-3)


def test_xl_has_a_condition_encoder_narrower_than_its_transformer():
    components = tiny_components(variant="xl", latent_channels=8)
    transformer, width = components["transformer"], components["condition_encoder"].config.hidden_size
    assert width == transformer.config.encoder_hidden_size < transformer.config.hidden_size


def test_an_unknown_variant_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="'xxl'; expected one of base, sft, turbo, xl"):
        tiny_components(variant="xxl")


def test_silence_is_encoded_as_if_in_one_piece():
    vae = tiny_components(5, latent_channels=8)["vae"]
    with torch.no_grad():
        whole = vae.encode(torch.zeros(1, 2, 60 * 1920)).latent_dist.mean.transpose(1, 2)
    assert whole.abs().max() > 0.1
    torch.testing.assert_close(encode_silence(vae, 60), whole, atol=1e-5, rtol=0)


def test_the_tokenizer_ends_every_text_and_loses_nothing_of_it():
    tokenizer = tiny_tokenizer()
    text = "# Caption\nein schönes Lied, 好听的歌 \n"
    ids = tokenizer(text).input_ids
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[:-1]) == text
    assert tokenizer("<|endoftext|>").input_ids == [tokenizer.eos_token_id] * 2


def test_a_prompt_leaves_most_of_its_tokens_to_the_caption(components):
    pipeline = AceStepPipeline(**components)
    prompt, _ = pipeline._format_prompt("", "", bpm=120, keyscale="F# minor", timesignature="4", audio_duration=12)
    assert len(components["tokenizer"](prompt).input_ids) < 256 / 3
