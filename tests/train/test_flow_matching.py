import pytest
import torch
from safetensors.torch import load_file

from acestep.train.draws import Draws, permutation
from acestep.train.flow_matching import (
    draw_timestep,
    flow_matching_loss,
    interpolate,
    loss_weight,
    resolve_condition_dropout,
    resolve_timestep_law,
    turbo_grid,
)
from tests.conftest import REFERENCE


def timesteps(law: str, count: int = 4000, **law_options) -> torch.Tensor:
    return torch.tensor([draw_timestep(Draws(0, 0, f"song{n}"), law, **law_options) for n in range(count)])


def test_base_draws_the_larger_of_two_logit_normals_with_median_0536():
    drawn = timesteps("logit_normal_max")
    assert drawn.median() == pytest.approx(0.536, abs=0.015)
    # the larger of two: its distribution function is the square of one draw's, Phi((logit t + 0.4))**2
    below = torch.special.ndtr(torch.logit(torch.tensor(0.4)) + 0.4) ** 2
    assert (drawn < 0.4).float().mean() == pytest.approx(below.item(), abs=0.02)


def test_a_single_draw_has_median_040():
    assert timesteps("logit_normal").median() == pytest.approx(0.40, abs=0.015)


def test_mu_and_sigma_move_the_law():
    assert timesteps("logit_normal", mu=1.0, sigma=0.1).median() == pytest.approx(0.731, abs=0.01)


def test_turbo_draws_its_eight_inference_steps_equally_often():
    grid = torch.tensor([3 * u / (1 + 2 * u) for u in (1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8)])
    torch.testing.assert_close(turbo_grid(), grid)
    drawn = timesteps("turbo")
    counts = [(drawn - value).abs().lt(1e-6).sum().item() for value in grid]
    assert sum(counts) == 4000
    assert all(400 < count < 600 for count in counts)


def test_auto_is_by_variant():
    assert resolve_timestep_law("auto", is_turbo=True) == "turbo"
    assert resolve_timestep_law("auto", is_turbo=False) == "logit_normal_max"
    assert resolve_timestep_law("uniform", is_turbo=True) == "uniform"
    assert resolve_condition_dropout(None, is_turbo=False) == 0.15
    assert resolve_condition_dropout(None, is_turbo=True) == 0.0
    assert resolve_condition_dropout(0.3, is_turbo=True) == 0.3


def test_turbo_grid_is_what_the_pipeline_samples():
    from acestep.models.conditioning import _text_pipeline

    schedule = _text_pipeline(None, None)._get_timestep_schedule(8, 3.0, dtype=torch.float32)
    torch.testing.assert_close(turbo_grid(), schedule)


def test_loss_and_interpolation_are_the_originals():
    expected = load_file(REFERENCE / "base" / "expected.safetensors")
    song = {key.removeprefix("song0."): value for key, value in expected.items() if key.startswith("song0.")}
    loss = flow_matching_loss(song["velocity"], song["noise"], song["clean_latents"])
    torch.testing.assert_close(loss, song["loss"], rtol=1e-6, atol=0)
    ends = torch.tensor([1.0])
    assert torch.equal(interpolate(song["clean_latents"], song["noise"], ends), song["noise"])
    assert torch.equal(interpolate(song["clean_latents"], song["noise"], ends * 0), song["clean_latents"])


def test_frames_past_a_songs_end_do_not_count():
    velocity, noise, clean = torch.randn(3, 2, 10, 4).unbind(0)
    alone = flow_matching_loss(velocity[:1, :7], noise[:1, :7], clean[:1, :7])
    padded = flow_matching_loss(velocity, noise, clean, torch.tensor([7, 10]))
    torch.testing.assert_close(padded[:1], alone)


def test_min_snr_weighs_a_velocity_loss():
    t = torch.linspace(0.01, 0.99, 50)
    snr = ((1 - t) / t) ** 2
    torch.testing.assert_close(loss_weight(t, "min_snr", 5.0), t**2 * snr.clamp(max=5.0))
    assert torch.equal(loss_weight(t, "none"), torch.ones(50))


def test_draws_depend_on_seed_epoch_sample_and_purpose_alone():
    draws = Draws(1, 2, "song")
    first = draws.normal("noise", 5, 3)
    draws.uniform("crop")  # another draw in between changes nothing
    assert torch.equal(draws.normal("noise", 5, 3), first)
    others = [Draws(2, 2, "song"), Draws(1, 3, "song"), Draws(1, 2, "songs")]
    assert not any(torch.equal(other.normal("noise", 5, 3), first) for other in others)
    assert not torch.equal(draws.normal("latents", 5, 3), first)
    assert first.dtype == torch.float32


def test_noise_is_standard_normal():
    noise = Draws(0, 0, "song").normal("noise", 1000, 64)
    assert noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(1.0, abs=0.02)


def test_each_epoch_has_another_order_of_all_rows():
    orders = [permutation(0, epoch, 20) for epoch in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert permutation(0, 1, 20) == orders[1]
