"""Writing a checkpoint in diffusers' layout, one tensor in memory at a time."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from acestep.errors import UserError
from acestep.models.checkpoint import CONVERTED, SILENCE, TRAINING_CONFIG, Checkpoint, empty_text_encoder
from acestep.models.layout import read_json
from acestep.models.weights import NamedWeights, check_weights, write_safetensors


def convert_checkpoint(
    checkpoint: Checkpoint, output_dir: Path, dtype: torch.dtype | None = None, report: Callable[[str], None] = print
) -> None:
    """Write all components and `model_index.json`, so that `AceStepPipeline.from_pretrained(output_dir)` opens them.

    The folder appears whole or not at all.

    Args:
        dtype: of all floating-point weights; None keeps the stored ones.
        report: called with the name of each component when it is written.

    Raises:
        UserError: when `output_dir` exists and is not empty, or the checkpoint is not whole.
    """
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(f"--output_dir {output_dir}: is there already and not empty. Choose another or remove it.")
    made = [folder for folder in output_dir.parents if not folder.exists()]
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=output_dir.parent, prefix=f".{output_dir.name}-"))
    except OSError as error:
        raise UserError(f"--output_dir {output_dir}: cannot be made: {error.strerror}. Choose another.") from error
    try:
        for component in ("vae", "text_encoder"):
            report(component)
            _copy_component(checkpoint, component, staging / component, dtype)
        report("tokenizer")
        _copy_tokenizer(checkpoint, staging / "tokenizer")
        checkpoint.scheduler().save_config(staging / "scheduler")
        for component in CONVERTED:
            if component in checkpoint.configs:
                report(component)
                _convert_component(checkpoint, component, staging / component, dtype)
        _write_index(checkpoint, staging)
        mu, sigma = checkpoint.timestep_law()
        law = {"timestep_mu": mu, "timestep_sigma": sigma}
        (staging / TRAINING_CONFIG).write_text(json.dumps(law, indent=2) + "\n", encoding="utf-8")
        staging.chmod(0o755)  # temporary folders are private
        if output_dir.exists():
            output_dir.rmdir()
        staging.rename(output_dir)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else has put something in
            for folder in made:
                folder.rmdir()
        raise


class _WithSilence(NamedWeights):
    """The condition encoder's weights and the silence latent, in an original checkpoint a file of its own."""

    def __init__(self, weights: NamedWeights, silence: torch.Tensor):
        names = {name: original for name, original in weights.names.items() if name != SILENCE}
        super().__init__(weights.source, {**names, SILENCE: SILENCE})
        self.silence = silence

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.silence if name == SILENCE else super().__getitem__(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.silence.shape) if name == SILENCE else super().shape(name)

    def sample(self, name: str) -> torch.Tensor:
        return self.silence.reshape(-1)[:1] if name == SILENCE else super().sample(name)


def _convert_component(checkpoint: Checkpoint, component: str, folder: Path, dtype: torch.dtype | None) -> None:
    model = _meta_model(checkpoint, component)
    weights = checkpoint.weights(component)
    if component == "condition_encoder":
        weights = _WithSilence(weights, checkpoint.silence_latent())
    check_weights(model, weights, f"{checkpoint.name} ({component})")
    model.save_config(folder)
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", weights, dtype)


def _copy_component(checkpoint: Checkpoint, component: str, folder: Path, dtype: torch.dtype | None) -> None:
    """VAE and text encoder have the same names in both layouts."""
    source = checkpoint.layout.component(component)
    weights = checkpoint.weights(component)
    config = read_json(source / "config.json")
    model = _empty_vae(source) if component == "vae" else empty_text_encoder(source)
    check_weights(model, weights, str(source))
    if dtype is not None and component == "text_encoder":
        config.pop("torch_dtype", None)
        config["dtype"] = str(dtype).removeprefix("torch.")
    config.pop("auto_map", None)  # names code that nobody runs and that is not copied
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_safetensors(folder / f"{weights.source.stem}.safetensors", weights, dtype)


def _copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    source = checkpoint.layout.component("tokenizer")
    folder.mkdir()
    for path in sorted(source.iterdir()):
        # an original bundle keeps the text encoder's configuration in the same folder
        of_encoder = path.name in ("config.json", "generation_config.json") or ".safetensors" in path.name
        if path.suffix in (".json", ".txt", ".jinja") and not of_encoder:
            shutil.copyfile(path, folder / path.name)


def _empty_vae(folder: Path) -> torch.nn.Module:
    from accelerate import init_empty_weights
    from diffusers import AutoencoderOobleck

    with init_empty_weights(include_buffers=True):
        return AutoencoderOobleck.from_config(read_json(folder / "config.json"))


def _meta_model(checkpoint: Checkpoint, component: str) -> torch.nn.Module:
    from accelerate import init_empty_weights
    from diffusers import AceStepTransformer1DModel
    from diffusers.pipelines.ace_step import (
        AceStepAudioTokenDetokenizer,
        AceStepAudioTokenizer,
        AceStepConditionEncoder,
    )

    classes = {
        "transformer": AceStepTransformer1DModel,
        "condition_encoder": AceStepConditionEncoder,
        "audio_tokenizer": AceStepAudioTokenizer,
        "audio_token_detokenizer": AceStepAudioTokenDetokenizer,
    }
    with init_empty_weights(include_buffers=True):
        return classes[component].from_config(checkpoint.configs[component])


def _write_index(checkpoint: Checkpoint, folder: Path) -> None:
    """`model_index.json`, written by the pipeline class itself from components without weights."""
    from diffusers import AceStepPipeline

    components = {name: _meta_model(checkpoint, name) if name in checkpoint.configs else None for name in CONVERTED}
    pipeline = AceStepPipeline(
        vae=_empty_vae(folder / "vae"),
        text_encoder=empty_text_encoder(folder / "text_encoder"),
        tokenizer=checkpoint.tokenizer(),
        scheduler=checkpoint.scheduler(),
        **components,
    )
    pipeline.save_config(folder)
