"""Repaint, cover and timbre from recordings, and a model that is quantized or offloaded."""

import dataclasses
import math

import pytest
import torch
from diffusers import AceStepPipeline

from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.generation import Generator, memory_advice
from acestep.models.generation_requests import Request, Sampling
from acestep.models.generation_tasks import check_repaint, play, repainted_frames, spliced
from acestep.models.timbre import add_timbre_token
from acestep.models.tiny import save_tiny_pipeline, tiny_components

HOP, RATE = 1920, 48_000
CHANNELS = 2  # of the latents: few, since the timbre of a recording takes 30 s of it
FRAMES = 14  # one of the lengths for which diffusers would draw a frame of noise too many
SAMPLES = FRAMES * HOP - 700
SHORT = Sampling(steps=2, shift=1.0, guidance=7.0)
# so loud that the 5 Hz tokens of a model with random weights change
LOUD = 5 * torch.rand((2, SAMPLES), generator=torch.Generator().manual_seed(0)) - 0.5
TEXTS = Request("song", "bright", "la", language="en")
REPAINT = dataclasses.replace(TEXTS, task="repaint", repaint_start=0.16, repaint_end=0.36)
COVER = dataclasses.replace(TEXTS, task="cover")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for variant in ("base", "xl"):
        save_tiny_pipeline(
            tiny_components(3, variant, latent_channels=CHANNELS, downsampling_ratios=(40, 48)), folder / variant
        )
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def generators(models):
    made = {name: Generator(Checkpoint(str(path)), "cpu", torch.float32) for name, path in models.items()}
    for generator in made.values():
        generator.pipeline.set_progress_bar_config(disable=True)
    return made


def recording(pitch, samples=SAMPLES):
    time = torch.arange(samples) / RATE
    return 0.4 * torch.stack([torch.sin(2 * math.pi * pitch * time), torch.sin(3 * math.pi * pitch * time)])


def diffusers_audio(path, seed=5, xl_token=False, **options):
    """What the pipeline itself makes of the same, its own draws begun at the same state."""
    pipeline = AceStepPipeline.from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_tiling()
    if xl_token:
        add_timbre_token(pipeline.condition_encoder)
    noise = torch.randn((1, FRAMES, CHANNELS), generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    settings = {"num_inference_steps": 2, "shift": 1.0, "guidance_scale": 7.0, "vocal_language": "en"}
    return pipeline("bright", lyrics="la", latents=noise, **settings, **options).audios[0]


def padded(audio):
    return torch.nn.functional.pad(audio, (0, -audio.shape[1] % HOP))


# Repaint


def test_repainting_keeps_every_sample_outside_the_part(generators):
    source = recording(220)
    made = play(generators["base"], REPAINT, SHORT, seed=5, source=source)
    first, last = 4 * HOP, 9 * HOP  # 0.16 s and 0.36 s
    assert made.shape == source.shape
    assert torch.equal(made[:, :first], source[:, :first])
    assert torch.equal(made[:, last:], source[:, last:])
    inside = (made - source)[:, first:last]
    assert inside.abs().mean() > 0.05
    assert inside[:, 1:].diff().abs().max() < 0.5
    assert made.abs().max() <= 1


def test_the_repainted_part_is_the_pipelines(generators, models):
    source = recording(220)
    made = play(generators["base"], REPAINT, SHORT, seed=5, source=source)
    window = {"repainting_start": 0.16 + 0.01, "repainting_end": 0.36 + 0.01}
    options = {"task_type": "repaint", "src_audio": padded(source), "audio_duration": SAMPLES / RATE}
    latents = diffusers_audio(models["base"], output_type="latent", **window, **options)[None]
    kept = generators["base"].encode(padded(source))
    expected = generators["base"].decode(torch.cat([kept[:, :4], latents[:, 4:9], kept[:, 9:]], 1))
    fade = round(0.02 * RATE)
    middle = slice(4 * HOP + fade, 9 * HOP - fade)
    torch.testing.assert_close(made[:, middle], expected[:, middle], atol=1e-4, rtol=0)


def test_the_model_is_told_the_frames_that_are_replaced(generators):
    masks = []
    hook = generators["base"].pipeline.transformer.register_forward_pre_hook(
        lambda _module, _inputs, options: masks.append(options["context_latents"][0, :, CHANNELS]), with_kwargs=True
    )
    source = recording(220, 32 * HOP)
    # 1.16 * 25 is 28.999999999999996
    made = play(
        generators["base"],
        dataclasses.replace(REPAINT, repaint_start=1.16, repaint_end=1.24),
        SHORT,
        seed=5,
        source=source,
    )
    hook.remove()
    assert masks[0].nonzero().flatten().tolist() == [29, 30]
    changed = (made - source).abs().amax(0).nonzero()
    assert (changed.min() // HOP, changed.max() // HOP) == (29, 30)


def test_repainting_goes_to_the_end_by_default(generators):
    source = recording(220)
    made = play(generators["base"], dataclasses.replace(REPAINT, repaint_end=None), SHORT, seed=5, source=source)
    assert torch.equal(made[:, : 4 * HOP], source[:, : 4 * HOP])
    assert not torch.equal(made[:, -10:], source[:, -10:])


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [(0.16, 0.36, (4, 9)), (1.16, 2.0, (29, 50)), (0.17, 0.35, (4, 9)), (None, 9.0, (0, 60))],
)
def test_the_part_is_whole_frames_around_its_seconds(start, end, frames):
    request = dataclasses.replace(REPAINT, repaint_start=start, repaint_end=end)
    assert repainted_frames(request, 60, 25.0) == frames


def test_a_part_behind_the_end_is_refused():
    request = dataclasses.replace(REPAINT, repaint_start=5.0, repaint_end=9.0)
    with pytest.raises(UserError, match=r"--repaint_end is 9; the source is 8\.00 s long"):
        check_repaint(request, 8.0, "--{}".format)
    with pytest.raises(UserError, match=r"--repaint_start is 5; the source is 5\.00 s long"):
        check_repaint(dataclasses.replace(request, repaint_end=None), 5.0, "--{}".format)
    check_repaint(request, 9.0, "--{}".format)


def test_the_part_takes_over_without_a_step():
    source, made = torch.zeros(2, 100), torch.full((2, 100), 3.0)
    result = spliced(source, made, 20, 60, 10)[0]
    assert result[:20].eq(0).all()
    assert result[60:].eq(0).all()
    assert result[30:50].eq(1).all()  # what would be clipped comes down to full scale
    assert result.diff().abs().max() < 0.1
    assert spliced(source, made, 0, 100, 10)[0].eq(1).all()


# Cover


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_cover_is_the_pipelines(generators, models, strength):
    source = recording(220)
    made = play(generators["base"], dataclasses.replace(COVER, cover_strength=strength), SHORT, seed=5, source=source)
    options = {"task_type": "cover", "src_audio": padded(source), "audio_duration": SAMPLES / RATE}
    expected = diffusers_audio(models["base"], audio_cover_strength=strength, **options)[:, :SAMPLES]
    peak = expected.abs().max()  # what was cut off behind the source may have been the loudest
    torch.testing.assert_close(made, expected * (10 ** (-1 / 20) / peak), atol=1e-4, rtol=0)
    assert made.shape == source.shape


def test_a_cover_answers_to_its_source_and_its_strength(generators):
    contexts = []
    hook = generators["base"].pipeline.transformer.register_forward_pre_hook(
        lambda _module, _inputs, options: contexts.append(options["context_latents"][0]), with_kwargs=True
    )

    def heard(request, source):
        contexts.clear()
        return play(generators["base"], request, SHORT, seed=5, source=source), contexts[0]

    (first, context), (other, loud) = heard(COVER, recording(220)), heard(COVER, LOUD)
    weak, same = heard(dataclasses.replace(COVER, cover_strength=0.2), recording(220))
    alone, silence = heard(dataclasses.replace(TEXTS, duration=SAMPLES / RATE), None)
    hook.remove()
    assert torch.equal(context, same)
    for a, b in ((context, loud), (context, silence)):
        assert (a - b).abs().max() > 0.05
    for a, b in ((first, other), (first, weak), (first, alone[:, :SAMPLES])):
        assert (a - b).abs().max() > 1e-3


# Timbre of a recording


@pytest.mark.parametrize("variant", ["base", "xl"])
def test_a_reference_is_the_pipelines_with_xls_token(generators, models, variant):
    reference = recording(330, RATE)
    request = dataclasses.replace(TEXTS, duration=SAMPLES / RATE)
    made = play(generators[variant], request, SHORT, seed=5, reference=reference)
    options = {"reference_audio": reference, "audio_duration": SAMPLES / RATE}
    expected = diffusers_audio(models[variant], xl_token=variant == "xl", **options)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)
    if variant == "xl":
        assert not torch.allclose(made, diffusers_audio(models[variant], **options), atol=1e-3)


def test_a_reference_changes_the_timbre_and_nothing_else_of_the_condition(generators):
    conditions = []
    encoder = generators["base"].pipeline.condition_encoder
    hook = encoder.register_forward_hook(lambda _module, _inputs, output: conditions.append(output[0][0]))
    request = dataclasses.replace(TEXTS, duration=0.4)
    for reference in (None, recording(330, RATE), torch.rand(2, RATE) - 0.5):
        play(generators["base"], request, SHORT, seed=5, reference=reference)
    hook.remove()
    silence, tone, noise = conditions
    changed = (silence - tone).abs().amax(1) > 1e-4
    assert changed.sum() == 1
    assert torch.equal((tone - noise).abs().amax(1) > 1e-4, changed)


# The same seed


def test_recordings_are_drawn_from_the_seed_and_leave_torchs_state(generators):
    torch.manual_seed(1)
    state, source, reference = torch.get_rng_state(), recording(220), recording(330, RATE)
    request = COVER
    first = play(generators["base"], request, SHORT, seed=5, source=source, reference=reference)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = play(generators["base"], request, SHORT, seed=5, source=source, reference=reference)
    other = play(generators["base"], request, SHORT, seed=6, source=source, reference=reference)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_length_can_be_played(models, generators):
    seconds = (FRAMES - 0.5) / 25
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):  # of diffusers 0.42
        AceStepPipeline.from_pretrained(models["base"])("bright", audio_duration=seconds, num_inference_steps=1)
    made = play(generators["base"], dataclasses.replace(TEXTS, duration=seconds), SHORT, seed=5)
    assert made.shape == (2, FRAMES * HOP)


# Less memory


@pytest.mark.parametrize(("kind", "likeness"), [("int8", 0.99), ("nf4", 0.9)])
def test_a_quantized_model_plays_about_the_same(models, generators, kind, likeness):
    quantized = Generator(Checkpoint(str(models["base"])), "cpu", torch.float32, quantization=kind)
    request = dataclasses.replace(TEXTS, duration=0.4)
    made, exact = (play(generator, request, SHORT, seed=5) for generator in (quantized, generators["base"]))
    assert not torch.equal(made, exact)
    assert torch.corrcoef(torch.stack([made.flatten(), exact.flatten()]))[0, 1] > likeness


@pytest.mark.parametrize("request_", [dataclasses.replace(TEXTS, duration=0.4), COVER, REPAINT])
def test_an_offloaded_model_plays_the_same(models, generators, request_):
    """The hooks are real; that they move anything to a GPU cannot be seen without one."""
    offloaded = Generator(Checkpoint(str(models["base"])), "cpu", torch.float32, cpu_offload=True)
    recordings = {
        "source": recording(220) if request_.task != "text2music" else None,
        "reference": recording(330, RATE),
    }
    made, exact = (
        play(generator, request_, SHORT, seed=5, **recordings) for generator in (offloaded, generators["base"])
    )
    torch.testing.assert_close(made, exact)
    assert all(hasattr(offloaded.pipeline.components[name], "_hf_hook") for name in ("vae", "transformer"))


def test_too_little_memory_is_advice():
    with (
        pytest.raises(UserError, match="Try --cpu_offload, --quantization nf4, or a shorter --duration"),
        memory_advice(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
