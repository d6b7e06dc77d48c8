"""One transformer on which adapters take turns, so that each is measured with everything else the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from acestep.adapters.adapter import Adapter
from acestep.adapters.applying import TransformerWeights, check_fit
from acestep.adapters.reading import read_adapter
from acestep.errors import UserError
from acestep.models.attention import install_attention
from acestep.models.checkpoint import Checkpoint
from acestep.models.quantization import quantize
from acestep.train.adapter import put_adapter
from acestep.train.step import VelocityLoss

ADAPTER = "default"  # what PEFT calls the one that is on
BASE, HELD_OUT, TRAINING = NAMES = "base", "held-out song", "training songs"  # what stands beside the adapters


@dataclass(frozen=True)
class Contestant:
    """An adapter that is measured.

    Attributes:
        label: what it is called, different from all others.
        source: file, folder or Hub id.
        scale: its strength.
        adapter: what was read.
    """

    label: str
    source: str
    scale: float
    adapter: Adapter


class MeasuredModel:
    """The transformer of a checkpoint, computing as in training.

    Args:
        checkpoint: any layout.
        device, dtype: where and in what it computes; the adapters' weights stay in float32, as in training.
        quantization: of its blocks, "none", "int8" or "nf4".
        attention: see `install_attention`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str,
        dtype: torch.dtype,
        quantization: str = "none",
        attention: str = "auto",
    ):
        self.checkpoint, self.device, self.dtype = checkpoint, torch.device(device), dtype
        self.autocast = partial(torch.autocast, self.device.type, dtype, enabled=dtype != torch.float32)
        self.transformer = checkpoint.transformer(dtype)
        if quantization != "none":
            quantize(self.transformer, quantization, torch.bfloat16, self.device)
        masks = install_attention(self.transformer, attention) != "native"
        self.transformer.to(self.device)
        self.velocity_loss = VelocityLoss(
            self.transformer,
            checkpoint.silence_latent().to(self.device),
            checkpoint.null_condition().to(self.device),
            masks=masks,
            autocast=self.autocast,
        )

    def read(self, sources: list[str], scales: list[float]) -> list[Contestant]:
        """Read adapters and see that they fit, before the long work.

        Raises:
            UserError: for one that cannot be read or does not fit, or an OFT at another strength than 1.
        """
        contestants = []
        for label, source, scale in zip(labels(sources, scales), sources, scales, strict=True):
            try:
                adapter = read_adapter(source, base=TransformerWeights(self.transformer))
                check_fit(adapter, self.transformer, source)
            except UserError as error:
                raise UserError(f"--lora {error}") from error
            if adapter.kind == "oft" and scale != 1:
                raise UserError(
                    f"--lora_scale {scale:g}: {source} is an OFT adapter, a rotation, which has none but 1."
                )
            contestants.append(Contestant(label, source, scale, adapter))
        return contestants

    @contextmanager
    def playing(self, contestant: Contestant | None) -> Iterator[None]:
        """The transformer with this adapter on it, or alone; afterwards it is as it was."""
        if contestant is None:
            yield
            return
        import peft

        try:
            put_adapter(self.transformer, contestant.adapter.peft_config(), seed=0)
            found = peft.set_peft_model_state_dict(self.transformer, contestant.adapter.state_dict())
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--lora {contestant.source}: cannot be put on this model: {reason}") from error
        if found.unexpected_keys:
            raise UserError(f"--lora {contestant.source}: no place for {', '.join(found.unexpected_keys[:8])}.")
        try:
            if contestant.adapter.kind != "oft":
                self.transformer.set_adapters([ADAPTER], [contestant.scale])
            self.transformer.requires_grad_(False).to(self.device).eval()
            yield
        finally:
            self.transformer.unload_lora()


def labels(sources: list[str], scales: list[float]) -> list[str]:
    """Short names that tell adapters apart: the last part of the path, more of it where that is not enough.

    Raises:
        UserError: for the same adapter twice at one strength.
    """
    parts = [Path(source).parts for source in sources]
    # what a run calls its own folders says little without the run
    inner = [path[-1] in ("best", "ema") or path[-1].startswith("checkpoint-") for path in parts]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth - is_inner :]).lstrip("/") for path, is_inner in zip(parts, inner, strict=True)]
        if len(set(names)) == len(set(sources)):
            break
    strengths = [f" x {scale:g}" if scale != 1 else "" for scale in scales]
    labelled = [name + strength for name, strength in zip(names, strengths, strict=True)]
    for label, source in zip(labelled, sources, strict=True):
        if labelled.count(label) > 1:
            raise UserError(f"--lora {source}: is there {labelled.count(label)} times; expected different ones.")
    return [f"{label} (LoRA)" if label in NAMES else label for label in labelled]


def facts(contestant: Contestant) -> dict[str, Any]:
    """What a record says of an adapter."""
    adapter = contestant.adapter
    return {"source": contestant.source, "scale": contestant.scale, "kind": adapter.label, "layout": adapter.layout}
