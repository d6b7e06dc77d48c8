"""The exponential mean of the adapter's weights (EMA), kept beside those that are trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from acestep.train.optimizer_state import Named
from acestep.train.sharding import gathered, like


class AveragedWeights:
    """diffusers' EMA of the adapter, with what checkpoints need.

    The decay warms up as `(1 + step) / (10 + step)` until it reaches `decay`, so that a short run's mean is not its
    start.

    Args:
        named: the trainable weights.
        decay: of each step, below 1.
    """

    def __init__(self, named: Named, decay: float):
        from diffusers.training_utils import EMAModel

        self.named = named
        self._model = EMAModel([parameter for _, parameter in named], decay=decay)

    def step(self) -> None:
        """Take the weights of a finished step in."""
        self._model.step([parameter for _, parameter in self.named])

    @property
    def count(self) -> int:
        """Steps taken in."""
        return self._model.optimization_step

    def tensors(self) -> dict[str, torch.Tensor]:
        """The mean as `ema/NAME`; every process must ask."""
        return {
            f"ema/{name}": gathered(mean) for (name, _), mean in zip(self.named, self._model.shadow_params, strict=True)
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], count: int) -> None:
        """Put back what `tensors` returned after `count` steps."""
        for (name, _), mean in zip(self.named, self._model.shadow_params, strict=True):
            mean.copy_(like(tensors[f"ema/{name}"], mean))
        self._model.optimization_step = count

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, the adapter's weights are the mean."""
        parameters = [parameter for _, parameter in self.named]
        former = [parameter.detach().clone() for parameter in parameters]
        self._model.copy_to(parameters)
        try:
            yield
        finally:
            for parameter, weight in zip(parameters, former, strict=True):
                parameter.data.copy_(weight)
