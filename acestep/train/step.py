"""One micro-batch through the model: what is fed, and each song's loss."""

import torch
from torch import nn

from acestep.models.conditioning import context_latents
from acestep.train.batches import equal_conditions
from acestep.train.flow_matching import flow_matching_loss, interpolate, loss_weight


class VelocityLoss:
    """Losses of samples under a transformer.

    Args:
        transformer: as prepared by accelerate.
        silence_latent: `[1, 15000, C]`, null_condition `[1, 1, D]`: of the model, on the device that computes.
        weighting, snr_gamma: see `loss_weight`.
    """

    def __init__(
        self,
        transformer: nn.Module,
        silence_latent: torch.Tensor,
        null_condition: torch.Tensor,
        weighting: str = "none",
        snr_gamma: float = 5.0,
    ):
        self.transformer = transformer
        self.silence_latent, self.null_condition = silence_latent.float(), null_condition.float()
        self.weighting, self.snr_gamma = weighting, snr_gamma

    def groups(self, batch: dict) -> list[list[int]]:
        """Positions that go through the model together. Conditions differ in length and are never padded."""
        return equal_conditions(batch)

    def __call__(self, batch: dict, group: list[int]) -> torch.Tensor:
        """Losses of the samples of one group, `[len(group)]` float32, weighted by timestep."""
        clean, noise, timestep = (batch[key][group] for key in ("clean_latents", "noise", "timestep"))
        conditions = [
            # the null condition stands in for every token, as guidance has it at inference
            self.null_condition[0].expand_as(batch["encoder_hidden_states"][position])
            if batch["null_condition"][position]
            else batch["encoder_hidden_states"][position]
            for position in group
        ]
        context = context_latents(self.silence_latent, clean.shape[1]).expand(len(group), -1, -1)
        velocity = self.transformer(
            hidden_states=interpolate(clean, noise, timestep),
            timestep=timestep,
            timestep_r=timestep,
            encoder_hidden_states=torch.stack(conditions),
            context_latents=context,
            return_dict=False,
        )[0]
        return flow_matching_loss(velocity, noise, clean) * loss_weight(timestep, self.weighting, self.snr_gamma)
