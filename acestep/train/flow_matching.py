"""The training objective of ACE-Step 1.5: flow matching from data (t = 0) to noise (t = 1)."""

import torch

TURBO_STEPS = 8
TURBO_SHIFT = 3.0


def turbo_grid(steps: int = TURBO_STEPS, shift: float = TURBO_SHIFT) -> torch.Tensor:
    """Turbo's timesteps at inference, `[steps]` from 1 downwards: `shift*u / (1 + (shift - 1)*u)`, u = 1, 7/8, ..."""
    u = torch.linspace(1.0, 0.0, steps + 1)[:-1]
    return shift * u / (1 + (shift - 1) * u)


def draw_timestep(draws, law: str, mu: float = -0.4, sigma: float = 1.0) -> float:
    """One timestep in 0 to 1.

    Args:
        draws: the sample's `Draws`.
        law: `logit_normal_max`, the base models' own (the larger of two logit-normal draws, median 0.536);
            `logit_normal`, a single draw (median 0.40); `turbo`, one of turbo's eight inference steps; `uniform`.
        mu, sigma: of the normal draws, from the model's configuration.
    """
    if law == "turbo":
        return float(turbo_grid()[draws.integer("timestep", TURBO_STEPS)])
    if law == "uniform":
        return draws.uniform("timestep")
    normals = draws.normal("timestep", 2) * sigma + mu
    t = torch.sigmoid(normals)
    return float(t.max() if law == "logit_normal_max" else t[0])


def resolve_timestep_law(law: str, is_turbo: bool) -> str:
    """`auto` by variant: turbo's grid for turbo models, the larger of two draws for base and sft."""
    if law != "auto":
        return law
    return "turbo" if is_turbo else "logit_normal_max"


def resolve_condition_dropout(dropout: float | None, is_turbo: bool) -> float:
    """The share of samples trained without a condition: 0.15 as the model was, 0 for turbo, which uses no guidance."""
    if dropout is not None:
        return dropout
    return 0.0 if is_turbo else 0.15


def interpolate(clean_latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """`x_t = t*noise + (1 - t)*x0`, `[batch, frames, channels]` with `timestep` `[batch]`, in the inputs' dtype."""
    t = timestep.view(-1, 1, 1)
    return t * noise + (1 - t) * clean_latents


def flow_matching_loss(
    velocity: torch.Tensor,
    noise: torch.Tensor,
    clean_latents: torch.Tensor,
    frames: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity, each song counting once.

    Args:
        velocity: `[batch, frames, channels]`, the transformer's output at `x_t`.
        noise, clean_latents: `[batch, frames, channels]`, the endpoints x1 and x0.
        frames: `[batch]`, valid frames of each song; what lies past them is left out. None: all are valid.

    Returns:
        `[batch]` losses in float32.

    Source: the training objective of ACE-Step 1.5, `mean((v - (x1 - x0))**2)` (arXiv:2602.00744).
    """
    error = (velocity.float() - (noise.float() - clean_latents.float())).square().mean(dim=-1)  # (B, T)
    if frames is None:
        return error.mean(dim=-1)
    valid = torch.arange(error.shape[1], device=error.device)[None] < frames[:, None]
    return torch.where(valid, error, 0.0).sum(dim=-1) / frames  # whatever stands in the padding


def loss_weight(timestep: torch.Tensor, weighting: str, gamma: float = 5.0) -> torch.Tensor:
    """Weight of a sample's loss by its timestep, `[batch]`.

    `min_snr` is min-SNR-gamma for a velocity loss, `min((1 - t)**2, gamma * t**2)`: with SNR = ((1 - t)/t)**2 it equals
    `t**2 * min(SNR, gamma)`, the weight of Hang et al. (2023) on x0 carried over to the error of v. The formula for an
    epsilon loss, `min(SNR, gamma)/SNR`, would do the opposite here.
    """
    if weighting == "none":
        return torch.ones_like(timestep)
    return torch.minimum((1 - timestep) ** 2, gamma * timestep**2)
