"""One micro-batch through the model: what is fed, and each song's loss."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.functional import pad

from acestep.models.attention import valid_lengths
from acestep.models.conditioning import context_latents
from acestep.train.batches import equal_lengths
from acestep.train.flow_matching import flow_matching_loss, interpolate, loss_weight


class VelocityLoss:
    """Losses of samples under a transformer.

    Args:
        transformer: as prepared by accelerate.
        silence_latent: `[1, 15000, C]`, null_condition `[1, 1, D]`: of the model, on the device that computes.
        weighting, snr_gamma: see `loss_weight`.
        masks: whether the transformer's attention masks padding; without, only equal lengths go together.
        dropout_seed: of a run whose adapter has dropout; each sample then goes through the model alone, with random
            numbers of its own, so that the layout of batches changes nothing.
        autocast: entered around the transformer, so that it computes in the run's precision. accelerate's own would
            have no float16 without a GPU, and would reduce gradients of weights that FSDP2 shares out in bfloat16.
    """

    def __init__(
        self,
        transformer: nn.Module,
        silence_latent: torch.Tensor,
        null_condition: torch.Tensor,
        weighting: str = "none",
        snr_gamma: float = 5.0,
        *,
        masks: bool = False,
        dropout_seed: int | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.transformer = transformer
        self.silence_latent, self.null_condition = silence_latent.float(), null_condition.float()
        self.weighting, self.snr_gamma = weighting, snr_gamma
        self.masks, self.dropout_seed, self.autocast = masks, dropout_seed, autocast

    def unweighted(self, transformer: nn.Module) -> "VelocityLoss":
        """The same for evaluation: another handle of the transformer, no weighting, no dropout."""
        return VelocityLoss(
            transformer, self.silence_latent, self.null_condition, masks=self.masks, autocast=self.autocast
        )

    def groups(self, batch: dict) -> list[list[int]]:
        """Positions that go through the model together."""
        if self.dropout_seed is not None:
            return [[position] for position in range(len(batch["lengths"]))]
        return [list(range(len(batch["lengths"])))] if self.masks else equal_lengths(batch)

    def __call__(self, batch: dict, group: list[int]) -> torch.Tensor:
        """Losses of the samples of one group, `[len(group)]` float32, weighted by timestep."""
        clean, noise, timestep, frames = (batch[key][group] for key in ("clean_latents", "noise", "timestep", "frames"))
        lengths = [batch["lengths"][position] for position in group]
        if not self.masks:
            clean, noise = clean[:, : lengths[0]], noise[:, : lengths[0]]
        if self.dropout_seed is not None:
            _seed_dropout(self.dropout_seed, batch["epoch"][group[0]], batch["id"][group[0]])
        conditions = [
            # the null condition stands in for every token, as guidance has it at inference
            self.null_condition[0].expand_as(batch["encoder_hidden_states"][position])
            if batch["null_condition"][position]
            else batch["encoder_hidden_states"][position]
            for position in group
        ]
        velocity = self._velocity(interpolate(clean, noise, timestep), timestep, conditions, lengths)
        padded = min(lengths) < clean.shape[1]
        loss = flow_matching_loss(velocity, noise, clean, frames if padded else None)
        return loss * loss_weight(timestep, self.weighting, self.snr_gamma)

    def _velocity(
        self, noisy: torch.Tensor, timestep: torch.Tensor, conditions: list[torch.Tensor], lengths: list[int]
    ) -> torch.Tensor:
        """`[B, T, C]`; what is padding in song or condition is masked, and only where there is some."""
        context = context_latents(self.silence_latent, noisy.shape[1]).expand(noisy.shape[0], -1, -1)
        tokens = [condition.shape[0] for condition in conditions]
        longest = max(tokens)
        padding = {
            **({"frames": lengths} if min(lengths) < noisy.shape[1] else {}),
            **({"condition": tokens} if min(tokens) < longest else {}),
        }
        if padding:
            conditions = [pad(condition, (0, 0, 0, longest - condition.shape[0])) for condition in conditions]
        with valid_lengths(self.transformer, **padding) if padding else nullcontext(), self.autocast():
            return self.transformer(
                hidden_states=noisy,
                timestep=timestep,
                timestep_r=timestep,
                encoder_hidden_states=torch.stack(conditions),
                context_latents=context,
                return_dict=False,
            )[0]


def _seed_dropout(seed: int, epoch: int, sample: str) -> None:
    """Seed torch's own generators, which dropout draws from, by what the sample's other draws are keyed by."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{sample}/dropout".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little"))
