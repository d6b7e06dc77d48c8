"""Options of the export, and what of them does not go together."""

import math
from dataclasses import dataclass

from acestep.adapters.names import COMFYUI_PREFIXES
from acestep.errors import UserError
from acestep.options import option

LAYOUTS = ("diffusers", "peft", "comfyui", "lora")


@dataclass
class ExportOptions:
    lora: str | None = option(None, "adapter: file, folder, checkpoint folder or Hub id, in any layout")
    to: str | None = option(None, "layout to write; lora is a plain LoRA at alpha = rank in diffusers' layout", LAYOUTS)
    output_dir: str | None = option(None, "folder to write into")
    inspect: str | None = option(None, "tell what an adapter's file holds, and write nothing")
    pretrained_model_name_or_path: str | None = option(
        None, "folder or Hub id of the model: velocities are compared on it, and DoRA and OFT are converted with it"
    )
    scale: float = option(1.0, "multiply the strength by this")
    bake_alpha: bool = option(False, "put the strength into the weights, and write alpha = rank")
    resize_rank: int | None = option(
        None, "make a plain LoRA of this rank from each update's largest singular components; what it costs is printed"
    )
    dtype: str | None = option(None, "dtype to store; without it each weight keeps its own", ["bf16", "fp16", "fp32"])
    merge: list[str] = option([], "further adapters, to be added to --lora; the ranks add up, exactly")
    merge_weights: list[float] = option([], "weights of --lora and of each adapter of --merge; default 1")
    fuse: str | None = option(
        None, "write the whole model with the adapters in its weights, in this layout", ["diffusers", "original"]
    )
    comfyui_prefix: str = option(COMFYUI_PREFIXES[0], "what ComfyUI's names begin with", COMFYUI_PREFIXES)
    file_name: str | None = option(None, "of ComfyUI's file; default: as the adapter is called")
    lora_revision: str | None = option(None, "branch, tag or commit of a Hub adapter")
    variant: str | None = option(None, "which model of an original bundle, such as base, sft, turbo or xl-base")
    bundle: str | None = option(None, "folder or Hub id with VAE and text encoder, where the model is one variant only")
    revision: str | None = option(None, "branch, tag or commit of a Hub model")

    def check(self) -> None:
        """Raise UserError for what is missing or does not go together."""
        if self.inspect is not None:
            return
        if self.lora is None:
            raise UserError("--lora is missing: the adapter to export. --inspect FILE only looks at one.")
        if self.output_dir is None:
            raise UserError("--output_dir is missing: the folder to write into.")
        if (self.to is None) == (self.fuse is None):
            raise UserError(f"give either --to {'|'.join(LAYOUTS)} or --fuse diffusers|original.")
        if self.fuse and self.pretrained_model_name_or_path is None:
            raise UserError("--fuse needs the model to fuse into: --pretrained_model_name_or_path.")
        for name in ("resize_rank", "bake_alpha", "file_name"):
            if self.fuse and getattr(self, name):
                raise UserError(f"--{name} changes an adapter, and --fuse writes none. Leave it out.")
        if self.resize_rank is not None and self.resize_rank < 1:
            raise UserError(f"--resize_rank is {self.resize_rank}; expected at least 1.")
        if self.merge_weights and len(self.merge_weights) != 1 + len(self.merge):
            raise UserError(
                f"--merge_weights has {len(self.merge_weights)} values; expected {1 + len(self.merge)}: one for --lora "
                "and one for each adapter of --merge."
            )
        for name, values in (("scale", [self.scale]), ("merge_weights", self.merge_weights)):
            if not all(math.isfinite(value) for value in values):
                raise UserError(f"--{name} is {values}; expected numbers.")
        if self.file_name is not None and ("/" in self.file_name or not self.file_name.endswith(".safetensors")):
            raise UserError(
                f"--file_name {self.file_name}: expected a name that ends with .safetensors, and no folder."
            )

    @property
    def weights(self) -> list[float]:
        """A weight for --lora and each adapter of --merge, the scale included."""
        return [self.scale * weight for weight in self.merge_weights or [1.0] * (1 + len(self.merge))]
