"""What this software computes beside what the original ACE-Step 1.5 code computed (tests/reference/README.md)."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from acestep.models.checkpoint import Checkpoint
from acestep.models.conditioning import Prompt, context_latents, encode_condition, encode_texts
from acestep.models.convert import convert_checkpoint
from tests.conftest import REFERENCE

SONGS = ("song0", "song1")


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal within 1e-6 of the largest value: the figures were recorded on another processor.

    Against float64 the recorded velocities are themselves off by 6e-7 of their largest value.
    """
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() <= 1e-6 * max(1.0, expected.abs().max().item())


@pytest.fixture(scope="module", params=["base", "turbo", "xl", "base-diffusers", "xl-diffusers"])
def opened(request, tmp_path_factory):
    """A checkpoint in each geometry and layout, what is expected of it, and its pipeline in float32."""
    geometry = request.param.split("-")[0]
    folder = REFERENCE / ("xl" if geometry == "xl" else "base")
    expected = load_file(folder / "expected.safetensors")
    described = json.loads((folder / "expected.json").read_text())
    if geometry == "turbo":
        folder = shutil.copytree(folder, tmp_path_factory.mktemp("turbo") / "bundle")
        path = folder / "acestep-v15-base" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"is_turbo": True, "model_version": "turbo"}))
        path.parent.rename(folder / "acestep-v15-turbo")
    checkpoint = Checkpoint(str(folder))
    if request.param.endswith("diffusers"):
        converted = tmp_path_factory.mktemp("converted") / "model"
        convert_checkpoint(checkpoint, converted, report=lambda _name: None)
        checkpoint = Checkpoint(str(converted))
    return checkpoint, described["songs"], expected, checkpoint.pipeline(torch.float32)


def prompt_of(song: dict) -> Prompt:
    keys = ("caption", "lyrics", "language", "duration", "bpm", "keyscale", "timesignature")
    return Prompt(**{key: song[key] for key in keys})


def velocity(transformer, expected, song: str, condition: torch.Tensor) -> torch.Tensor:
    """The transformer's output at the recorded training step."""
    t = expected[f"{song}.timestep"]
    noisy = t[:, None, None] * expected[f"{song}.noise"] + (1 - t[:, None, None]) * expected[f"{song}.clean_latents"]
    return transformer(
        hidden_states=noisy,
        timestep=t,
        timestep_r=t,
        encoder_hidden_states=condition,
        context_latents=expected[f"{song}.context_latents"],
        return_dict=False,
    )[0]


def loss_of(found: torch.Tensor, expected, song: str) -> torch.Tensor:
    return (found - (expected[f"{song}.noise"] - expected[f"{song}.clean_latents"])).square().mean()


def test_variant_is_told_from_the_configuration(opened, request):
    checkpoint = opened[0]
    assert checkpoint.is_xl == ("xl" in request.node.callspec.params["opened"])
    assert checkpoint.is_turbo == ("turbo" in request.node.callspec.params["opened"])
    assert checkpoint.timestep_law() == (-0.4, 1.0)


@pytest.mark.parametrize("index", [0, 1])
def test_prompt_strings_and_token_ids_are_the_originals(opened, index):
    checkpoint, songs, expected, _ = opened
    text, lyrics = prompt_of(songs[index]).strings()
    assert text == songs[index]["text_prompt"]
    assert lyrics == songs[index]["lyric_prompt"]
    tokenizer = checkpoint.tokenizer()
    assert tokenizer(text).input_ids == expected[f"song{index}.text_input_ids"][0].tolist()
    assert tokenizer(lyrics).input_ids == expected[f"song{index}.lyric_input_ids"][0].tolist()
    counts = prompt_of(songs[index]).token_counts(tokenizer)
    assert counts == (
        expected[f"song{index}.text_input_ids"].shape[1],
        expected[f"song{index}.lyric_input_ids"].shape[1],
    )


@pytest.mark.parametrize("index", [0, 1])
def test_states_condition_and_context_are_the_originals(opened, index):
    checkpoint, songs, expected, pipeline = opened
    song = f"song{index}"
    states = encode_texts(prompt_of(songs[index]), pipeline.text_encoder, pipeline.tokenizer)
    assert torch.equal(states["lyric_hidden_states"], expected[f"{song}.lyric_hidden_states"][0])
    assert_close(states["text_hidden_states"], expected[f"{song}.text_hidden_states"][0])
    assert_close(encode_condition(states, pipeline.condition_encoder), expected[f"{song}.encoder_hidden_states"][0])
    context = context_latents(checkpoint.silence_latent(), songs[index]["frames"])
    assert torch.equal(context, expected[f"{song}.context_latents"][0])


@pytest.mark.parametrize("song", SONGS)
@torch.no_grad()
def test_velocity_and_loss_are_the_originals(opened, song):
    checkpoint, _, expected, pipeline = opened
    condition = expected[f"{song}.encoder_hidden_states"]
    found = velocity(pipeline.transformer, expected, song, condition)
    assert_close(found, expected[f"{song}.velocity"])
    assert_close(loss_of(found, expected, song)[None], expected[f"{song}.loss"])
    null = checkpoint.null_condition().expand_as(condition)
    assert_close(velocity(pipeline.transformer, expected, song, null), expected[f"{song}.velocity_null_condition"])


def test_velocity_and_every_gradient_with_the_adapter_are_the_originals(opened):
    checkpoint, _, expected, _ = opened
    from peft import LoraConfig, set_peft_model_state_dict

    from acestep.models.names import diffusers_name

    folder = REFERENCE / ("xl" if checkpoint.is_xl else "base") / "lora_adapter"
    transformer = checkpoint.transformer(torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    transformer.add_adapter(config)
    original = load_file(folder / "adapter_model.safetensors")
    renamed = {diffusers_name("decoder." + key.removeprefix("base_model.model."))[1]: v for key, v in original.items()}
    set_peft_model_state_dict(transformer, renamed)
    found = velocity(transformer, expected, "song0", expected["song0.encoder_hidden_states"])
    assert_close(found, expected["song0.lora_velocity"])
    loss = loss_of(found, expected, "song0")
    assert_close(loss[None], expected["song0.lora_loss"])
    loss.backward()
    gradients = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in transformer.named_parameters()
        if parameter.grad is not None
    }
    recorded = {key: value for key, value in expected.items() if key.startswith("song0.lora_grad.")}
    assert len(recorded) == len(gradients) == len(original)
    for key, value in recorded.items():
        name = key.removeprefix("song0.lora_grad.").removeprefix("base_model.model.").replace(".default", "")
        assert_close(gradients[diffusers_name("decoder." + name)[1]], value)


@torch.no_grad()
def test_audio_codes_and_hints_are_the_originals(opened):
    checkpoint, _, expected, pipeline = opened
    latents = expected["song0.clean_latents"]
    quantized, codes = pipeline.audio_tokenizer.tokenize(latents, checkpoint.silence_latent())
    assert torch.equal(codes, expected["song0.audio_codes"])
    hints = pipeline.audio_token_detokenizer(quantized)[:, : latents.shape[1]]
    assert_close(hints, expected["song0.lm_hints_25hz"])


@torch.no_grad()
def test_vae_posterior_is_the_originals(opened):
    _, _, expected, pipeline = opened
    posterior = pipeline.vae.encode(expected["vae.waveform"]).latent_dist
    assert_close(posterior.mean.transpose(1, 2), expected["vae.latent_mean"])
    assert_close(posterior.std.transpose(1, 2), expected["vae.latent_std"])
