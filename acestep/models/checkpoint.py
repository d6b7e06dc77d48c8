"""Opening an ACE-Step 1.5 checkpoint, component by component, from any of its layouts."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from acestep.errors import UserError
from acestep.models.configs import component_configs, is_xl
from acestep.models.layout import Layout, find_layout, read_json
from acestep.models.names import NULL_CONDITION, diffusers_name
from acestep.models.timbre import add_timbre_token
from acestep.models.weights import NamedWeights, WeightFile, check_weights, load_weights, report_keys

# The components whose names and files differ between the layouts.
CONVERTED = ("transformer", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer")
SILENCE = "silence_latent"
TRAINING_CONFIG = "acestep_training.json"  # what convert_checkpoint.py keeps of the original's configuration
# Entries of a configuration that say how it was saved, not what it computes.
NOT_COMPUTING = {"dtype", "torch_dtype", "transformers_version", "architectures", "use_cache", "name_or_path"}
SILENCE_FRAMES = 15000  # ten minutes; diffusers' condition encoder has a buffer of this length


class Checkpoint:
    """A model in diffusers' or the original layout, on disk or on the Hub; a component is read when it is asked for.

    Args:
        name: folder or Hub id (`--pretrained_model_name_or_path`).
        variant, bundle, revision: see `acestep.models.layout.find_layout`.

    Raises:
        UserError: whenever something is missing or does not fit; the text says what was looked for.
    """

    def __init__(self, name: str, variant: str | None = None, bundle: str | None = None, revision: str | None = None):
        self.layout: Layout = find_layout(str(name), variant, bundle, revision)

    @property
    def name(self) -> str:
        """What a person calls it: the Hub id or the folder, with the variant inside a bundle."""
        parts = [self.layout.repository.name, self.layout.variant_folder]
        return "/".join(part for part in parts if part)

    @property
    def commit(self) -> str | None:
        """The Hub commit that was opened; None for a folder on disk."""
        return self.layout.repository.commit

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """Constructor arguments of the four components that differ between the layouts."""
        paths = self.layout.config_files(*CONVERTED)
        missing = [name for name in ("transformer", "condition_encoder") if name not in paths]
        if missing:
            raise UserError(f"{self.name}: has no {' and no '.join(f'{name}/config.json' for name in missing)}.")
        if self.layout.kind == "original":
            return component_configs(read_json(paths["transformer"]), paths["transformer"])
        return {name: read_json(path) for name, path in paths.items()}

    @property
    def transformer_config(self) -> dict[str, Any]:
        return self.configs["transformer"]

    @property
    def is_turbo(self) -> bool:
        """Whether guidance is distilled into the weights (the turbo models): no guidance, eight steps."""
        config = self.transformer_config
        return bool(config.get("is_turbo")) or "turbo" in str(config.get("model_version") or "")

    @property
    def is_xl(self) -> bool:
        return is_xl(self.transformer_config)

    @property
    def condition_size(self) -> int:
        """Width D of a condition `[L, D]`; narrower than the DiT in the XL models."""
        return self.configs["condition_encoder"]["hidden_size"]

    def timestep_law(self) -> tuple[float, float]:
        """Mean and standard deviation of the normal draws behind the timestep; all releases have (-0.4, 1.0)."""
        if self.layout.kind == "original":
            config = read_json(self.layout.config_files("transformer")["transformer"])
        else:  # diffusers' configuration has no place for them
            path = self.layout.repository.fetch(TRAINING_CONFIG) / TRAINING_CONFIG
            config = read_json(path) if path.is_file() else {}
        return float(config.get("timestep_mu", -0.4)), float(config.get("timestep_sigma", 1.0))

    def transformer(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The DiT, an `AceStepTransformer1DModel` on the CPU; None keeps the stored dtype."""
        from diffusers import AceStepTransformer1DModel

        return self._load("transformer", AceStepTransformer1DModel, dtype)

    def condition_encoder(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The `AceStepConditionEncoder`, with XL's timbre token where the original has it."""
        from diffusers.pipelines.ace_step import AceStepConditionEncoder

        encoder = self._load("condition_encoder", AceStepConditionEncoder, dtype)
        if self.is_xl:
            add_timbre_token(encoder)
        return encoder

    def audio_tokenizer(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The 5 Hz `AceStepAudioTokenizer`."""
        from diffusers.pipelines.ace_step import AceStepAudioTokenizer

        return self._load("audio_tokenizer", AceStepAudioTokenizer, dtype)

    def audio_token_detokenizer(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The `AceStepAudioTokenDetokenizer`, 5 Hz codes back to 25 Hz hints."""
        from diffusers.pipelines.ace_step import AceStepAudioTokenDetokenizer

        return self._load("audio_token_detokenizer", AceStepAudioTokenDetokenizer, dtype)

    def vae(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The `AutoencoderOobleck`."""
        from diffusers import AutoencoderOobleck

        config = read_json(self.layout.component("vae") / "config.json")
        weights = self.weights("vae")
        return _build(AutoencoderOobleck, config, weights, str(weights.source.folder), dtype)

    def text_encoder(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The Qwen3-Embedding text encoder."""
        from transformers import AutoModel

        folder = self.layout.component("text_encoder")
        # transformers starts missing weights at random and only warns: all is checked before it looks.
        check_weights(empty_text_encoder(folder), self.weights("text_encoder"), str(folder))
        model = AutoModel.from_pretrained(
            folder, dtype=dtype or "auto", use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
        return model.eval().requires_grad_(False)

    def tokenizer(self) -> Any:
        """The text encoder's tokenizer."""
        from transformers import AutoTokenizer

        folder = self.layout.component("tokenizer")
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"{folder}: has no tokenizer.json.")
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the reader of tokenizer.json raises the bare class
            raise UserError(f"{folder}: the tokenizer cannot be read: {error}") from error

    def scheduler(self) -> Any:
        """The flow-matching scheduler that the pipeline feeds with timesteps in 0 to 1."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        if self.layout.kind == "diffusers":
            folder = self.layout.component("scheduler")
            return FlowMatchEulerDiscreteScheduler.from_config(read_json(folder / "scheduler_config.json"))
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)

    def silence_latent(self) -> torch.Tensor:
        """The VAE's latent of silence, `[1, 15000, channels]` in the stored dtype; a shorter one is repeated."""
        if self.layout.kind == "original":
            path = self.layout.component("transformer") / f"{SILENCE}.pt"
            if not path.is_file():
                raise UserError(f"{path}: is missing; it comes with the model's weights.")
            silence = _read_tensor(path)
            if silence.dim() == 3:
                silence = silence.transpose(1, 2)  # [1, channels, frames] there
        else:
            path = self.layout.component("condition_encoder")
            silence = self._weight("condition_encoder", SILENCE)
        channels = self.configs["condition_encoder"]["timbre_hidden_dim"]
        if silence.dim() != 3 or silence.shape[0] != 1 or not silence.shape[1] or silence.shape[2] != channels:
            raise UserError(
                f"{path}: the silence latent is {list(silence.shape)} as [1, frames, channels]; expected {channels} "
                "channels. Download it again."
            )
        # The pipeline repeats a short one in the same way, so nothing changes but the place where it is done.
        return silence.repeat(1, -(-SILENCE_FRAMES // silence.shape[1]), 1)[:, :SILENCE_FRAMES].contiguous()

    def null_condition(self) -> torch.Tensor:
        """The learned condition of guidance and dropout, `[1, 1, D]`, without opening the condition encoder."""
        return self._weight("condition_encoder", NULL_CONDITION)

    def weights(self, component: str) -> NamedWeights:
        """A component's weights by their diffusers names, not yet read."""
        folder = self.layout.component(component)
        if component == "text_encoder":
            source = WeightFile(folder, "model")
            # With the prefix where it was saved as a part of a language model; transformers takes it off too.
            return NamedWeights(source, {name.removeprefix("model."): name for name in source})
        if self.layout.kind == "diffusers" or component == "vae":
            source = WeightFile(folder, "diffusion_pytorch_model")
            return NamedWeights(source, {name: name for name in source})
        source = WeightFile(folder, "model")
        named = {original: diffusers_name(original) for original in source}
        report_keys(str(folder), unknown=[original for original, found in named.items() if found is None])
        return NamedWeights(
            source, {found[1]: original for original, found in named.items() if found and found[0] == component}
        )

    def fingerprint(self, component: str) -> str:
        """A short hash of a component's weights and of the configuration that changes what it computes.

        It is the same for both layouts and for a float32 and a bf16 copy: values are compared as bf16. Of each tensor
        some values from three rows are taken, so that it costs no reading of gigabytes.

        Args:
            component: `vae`, `text_encoder` (with the tokenizer), `condition_encoder` (with the silence latent) or
                `transformer`.
        """
        digest = hashlib.sha256(json.dumps(self._computing_config(component), sort_keys=True).encode())
        weights = self.weights(component)
        for name in sorted(weights):
            if name != SILENCE:
                digest.update(f"{name}{list(weights.shape(name))}".encode())
                digest.update(_bf16_bytes(weights.sample(name)))
        if component == "condition_encoder":
            digest.update(_bf16_bytes(self.silence_latent()))
        return digest.hexdigest()[:16]

    def pipeline(self, dtype: torch.dtype | None = None) -> Any:
        """The whole `AceStepPipeline` on the CPU, XL's timbre token included."""
        from diffusers import AceStepPipeline

        extra = {
            name: getattr(self, name)(dtype) if name in self.configs else None
            for name in ("audio_tokenizer", "audio_token_detokenizer")
        }
        return AceStepPipeline(
            vae=self.vae(dtype),
            text_encoder=self.text_encoder(dtype),
            tokenizer=self.tokenizer(),
            transformer=self.transformer(dtype),
            condition_encoder=self.condition_encoder(dtype),
            scheduler=self.scheduler(),
            **extra,
        )

    def _computing_config(self, component: str) -> dict[str, Any]:
        """The entries of a component's configuration that change what it computes from its weights."""
        if component in ("vae", "text_encoder"):
            config = read_json(self.layout.component(component) / "config.json")
            config = {key: value for key, value in config.items() if key not in NOT_COMPUTING and key[0] != "_"}
        else:
            keys = ("num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta", "rms_norm_eps")
            config = {key: self.configs[component].get(key) for key in (*keys, "sliding_window", "layer_types")}
            config["rope_theta"] = float(config["rope_theta"])
            if component == "condition_encoder":
                config.pop("layer_types")  # always in turn; only one of the layouts says so
                config["timbre_token"] = self.is_xl
        if component == "text_encoder":
            tokenizer = self.layout.component("tokenizer") / "tokenizer.json"
            if tokenizer.is_file():  # what it holds, whatever it is indented by
                config["tokenizer"] = hashlib.sha256(json.dumps(read_json(tokenizer)).encode()).hexdigest()
        return config

    def _weight(self, component: str, name: str) -> torch.Tensor:
        weights = self.weights(component)
        if name not in weights:
            report_keys(f"{self.name} ({component})", missing=[name])
        return weights[name]

    def _load(self, component: str, model_class: Any, dtype: torch.dtype | None) -> nn.Module:
        if component not in self.configs:
            raise UserError(f"{self.name}: has no {component}.")
        given = {SILENCE: self.silence_latent()} if component == "condition_encoder" else {}
        weights = self.weights(component)
        where = f"{self.name} ({component})"
        return _build(model_class, self.configs[component], weights, where, dtype, given)


def _build(
    model_class: Any,
    config: dict[str, Any],
    weights: NamedWeights,
    where: str,
    dtype: torch.dtype | None,
    given: dict[str, torch.Tensor] | None = None,
) -> nn.Module:
    """A model with its weights in place, checked, in evaluation mode and without gradients."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):  # buffers hold constants that no file has
        model = model_class.from_config(config)
    given = given or {}
    check_weights(model, weights, where, given=tuple(given))
    load_weights(model, weights, dtype)
    load_weights(model, given, dtype)
    return model.eval().requires_grad_(False)


def empty_text_encoder(folder: Path) -> nn.Module:
    """The text encoder that `folder/config.json` describes, on the meta device: its names and shapes."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / 'config.json'}: is of no text encoder that transformers knows: {reason}") from error
    with init_empty_weights(include_buffers=True):
        return AutoModel.from_config(config, trust_remote_code=False)


def _read_tensor(path: Path) -> torch.Tensor:
    """A `.pt` file's tensor; nothing that the file asks for is run."""
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken or a malicious file raises depends on where it breaks
        raise UserError(
            f"{path}: holds something else than a tensor, and pickled code is not run ({type(error).__name__}). "
            "Take the file from the model's own repository."
        ) from None
    if not isinstance(tensor, torch.Tensor):
        raise UserError(f"{path}: holds a {type(tensor).__name__}; expected a tensor [1, channels, frames].")
    return tensor


def _bf16_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
