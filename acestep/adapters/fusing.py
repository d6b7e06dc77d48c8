"""A checkpoint with adapters in its weights, written one tensor at a time."""

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from acestep.adapters.adapter import Adapter
from acestep.adapters.updates import update
from acestep.errors import UserError
from acestep.models.checkpoint import SILENCE, Checkpoint
from acestep.models.convert import convert_checkpoint
from acestep.models.names import diffusers_name
from acestep.models.weights import NamedWeights, WeightFile, write_safetensors

Weighted = Sequence[tuple[Adapter, float]]


class FusedWeights(NamedWeights):
    """Weights with the adapters' updates added as they are read.

    Args:
        weights: whose names say which layer each tensor is of.
        layers: diffusers' name of the layer of each tensor that is one's weight, by the tensor's name.
        dtype: that will be stored; None keeps each tensor's own.
    """

    def __init__(self, weights: NamedWeights, layers: dict[str, str], adapters: Weighted, dtype: torch.dtype | None):
        super().__init__(weights.source, weights.names)
        self.layers, self.adapters, self.dtype = layers, adapters, dtype
        # for what is stored in less than float32: squared norms of what that changed, and of the update
        self.rounding: dict[str, tuple[float, float]] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        weight = super().__getitem__(name)
        layer = self.layers.get(name, "")
        adapters = [(adapter, factor) for adapter, factor in self.adapters if layer in adapter.layers]
        if not adapters:
            return weight
        own = weight.float()
        added = sum(factor * update(adapter, layer, own) for adapter, factor in adapters)
        fused = own + added
        stored = fused.to(self.dtype or weight.dtype)
        if stored.dtype != torch.float32:
            self.rounding[layer] = tuple(float(t.double().square().sum()) for t in (stored.float() - fused, added))
        return stored

    def rounding_cost(self) -> float | None:
        """What storing in fewer bits changed, over the updates, as Frobenius norms; None if all is in float32."""
        if not self.rounding:
            return None
        changed, added = (math.sqrt(sum(pair[side] for pair in self.rounding.values())) for side in (0, 1))
        return changed / added if added else 0.0


class FusedCheckpoint(Checkpoint):
    """A checkpoint whose transformer has adapters in its weights."""

    def __init__(self, checkpoint: Checkpoint, adapters: Weighted, dtype: torch.dtype | None):
        self.layout = checkpoint.layout
        weights = checkpoint.weights("transformer")
        layers = {name: name.removesuffix(".weight") for name in weights}
        self.fused = FusedWeights(weights, layers, adapters, dtype)

    def weights(self, component: str) -> NamedWeights:
        return self.fused if component == "transformer" else super().weights(component)


def write_fused(
    checkpoint: Checkpoint,
    adapters: Weighted,
    output_dir: Path,
    layout: str,
    dtype: torch.dtype | None,
    report: Callable[[str], None],
) -> float | None:
    """Write the checkpoint with adapters in its weights; the folder appears whole or not at all.

    Args:
        layout: "diffusers", or "original" for a checkpoint that is itself in the original layout.
        dtype: of all floating-point weights; None keeps the stored ones.

    Returns:
        What storing in fewer bits than float32 changed, over the updates; None for float32.

    Raises:
        UserError: when `output_dir` is not empty, or the layout cannot be written from this checkpoint.
    """
    if layout == "diffusers":
        fused = FusedCheckpoint(checkpoint, adapters, dtype)
        convert_checkpoint(fused, output_dir, dtype, report)
        return fused.fused.rounding_cost()
    if checkpoint.layout.kind != "original":
        raise UserError(
            f"--fuse original: {checkpoint.name} is in diffusers' layout. Take --fuse diffusers, or give the model in "
            "its original layout."
        )
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(f"--output_dir {output_dir}: is there already and not empty. Choose another or remove it.")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=output_dir.parent, prefix=f".{output_dir.name}-"))
    try:
        cost = _write_original(checkpoint, adapters, staging, dtype, report)
        staging.chmod(0o755)  # temporary folders are private
        if output_dir.exists():
            output_dir.rmdir()
        staging.rename(output_dir)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return cost


def _write_original(
    checkpoint: Checkpoint, adapters: Weighted, folder: Path, dtype: torch.dtype | None, report: Callable[[str], None]
) -> float | None:
    subfolder = checkpoint.layout.variant_folder
    root = checkpoint.layout.repository.fetch(f"{subfolder}/*.py" if subfolder else "*.py")
    source = checkpoint.layout.component("transformer")
    # the model's code beside its configuration is what the original tools run; here it is only copied
    for path in [source / "config.json", source / f"{SILENCE}.pt", *sorted((root / subfolder).glob("*.py"))]:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    report("model.safetensors")
    file = WeightFile(source, "model")
    layers = {}
    for original in file:
        found = diffusers_name(original)
        if found and found[0] == "transformer":
            layers[original] = found[1].removesuffix(".weight")
    weights = FusedWeights(NamedWeights(file, {name: name for name in file}), layers, adapters, dtype)
    write_safetensors(folder / "model.safetensors", weights, dtype)
    return weights.rounding_cost()
