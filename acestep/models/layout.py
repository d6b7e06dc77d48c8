"""Where a checkpoint's components lie: diffusers' layout, the original bundle, or an original folder of one variant."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.errors import UserError
from acestep.models.repository import Repository

BUNDLE = "ACE-Step/Ace-Step1.5"
TEXT_ENCODER_FOLDER = "Qwen3-Embedding-0.6B"
VARIANT_PREFIX = "acestep-v15-"
_CONFIGS = ("model_index.json", "config.json", "*/config.json")
_TEXTS = ("*.json", "*.txt", "*.jinja")


@dataclass(frozen=True)
class Layout:
    """A checkpoint found in a repository.

    Attributes:
        kind: "diffusers" or "original".
        repository: where DiT and condition encoder come from; `variant_folder` is the folder in it ("" is its root).
        bundle: where VAE and text encoder of an original checkpoint come from (the repository itself in a bundle).
    """

    kind: str
    repository: Repository
    variant_folder: str = ""
    bundle: Repository | None = None

    def component(self, name: str) -> Path:
        """The folder of a component with its files, downloaded where needed.

        Args:
            name: `transformer`, `condition_encoder`, `audio_tokenizer`, `audio_token_detokenizer` (all four in the same
                file of an original checkpoint), `vae`, `text_encoder`, `tokenizer` or `scheduler`.
        """
        # Only safetensors: other forms of the same weights may lie beside them. The tokenizer needs none at all.
        patterns = [*_TEXTS] if name in ("tokenizer", "scheduler") else [*_TEXTS, "*.safetensors"]
        source, subfolder, advice = self.repository, name, ""
        if self.kind == "original" and name in ("vae", "text_encoder", "tokenizer"):
            source = self.bundle or self.repository
            subfolder = "vae" if name == "vae" else TEXT_ENCODER_FOLDER
            advice = f" --bundle takes a folder or Hub id that holds vae/ and {TEXT_ENCODER_FOLDER}/."
        elif self.kind == "original":
            subfolder = self.variant_folder
            patterns = ["config.json", "silence_latent.pt", *_weight_files("model")]
        try:
            root = source.fetch(*(f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns))
        except UserError as error:
            raise UserError(f"{error}{advice}") from error
        if not (root / subfolder).is_dir():
            raise UserError(
                f"{source.name}: has no folder {subfolder}/, where the {name.replace('_', ' ')} was looked for.{advice}"
            )
        return root / subfolder

    def config_files(self, *names: str) -> dict[str, Path]:
        """The `config.json` of each of these components that has one; the weights beside it are not downloaded.

        In an original checkpoint it is one file, whatever the component.
        """
        folders = names if self.kind == "diffusers" else (self.variant_folder,) * len(names)
        paths = [f"{folder}/config.json" if folder else "config.json" for folder in folders]
        root = self.repository.fetch(*paths)
        return {name: root / path for name, path in zip(names, paths, strict=True) if (root / path).is_file()}


def _weight_files(stem: str) -> tuple[str, ...]:
    # The Hub's `*` matches slashes too: `*.safetensors` would bring whatever lies in folders below.
    return f"{stem}.safetensors", f"{stem}-*.safetensors", f"{stem}.safetensors.index.json"


def find_layout(name: str, variant: str | None, bundle: str | None, revision: str | None) -> Layout:
    """Look at a repository's configurations and tell how it is laid out.

    Args:
        variant: which model of an original bundle, `acestep-v15-base` or `base`.
        bundle: folder or Hub id with `vae/` and `Qwen3-Embedding-0.6B/` for a repository of one variant only; without
            it the folder above is taken where it holds them, else the released bundle.

    Raises:
        UserError: for a folder that is none of these (it says what was looked for), an unknown or an ambiguous variant.
    """
    repository = Repository(name, revision)
    folder = repository.fetch(*_CONFIGS)
    if (folder / "model_index.json").is_file():
        pipeline = read_json(folder / "model_index.json").get("_class_name")
        if pipeline != "AceStepPipeline":
            raise UserError(f"{name}: model_index.json is of a {pipeline}; expected an AceStepPipeline.")
        if variant:
            raise UserError(f"--variant {variant}: {name} is in diffusers' layout and holds one model. Leave it out.")
        if bundle:
            raise UserError(
                f"--bundle {bundle}: {name} is in diffusers' layout with a VAE and a text encoder. Leave it out."
            )
        return Layout("diffusers", repository)
    if _is_variant(folder):
        own_name = folder.resolve().name if repository.is_local else name.rsplit("/", maxsplit=1)[-1]
        if variant and _full_name(variant) != own_name:
            raise UserError(f"--variant {variant}: {name} holds one model only. Leave it out.")
        return Layout("original", repository, "", _bundle_for(repository, bundle))
    # A Hub repository without any of these files leaves no folder.
    variants = sorted(path.parent.name for path in folder.glob("*/config.json") if _is_variant(path.parent))
    if not variants:
        raise UserError(
            f"{name}: no ACE-Step model found. Looked for model_index.json (diffusers' layout), a config.json with "
            f'"model_type": "acestep" (one variant), and {VARIANT_PREFIX}*/config.json (the original bundle).'
        )
    chosen = _full_name(variant) if variant else variants[0]
    if chosen not in variants or (not variant and len(variants) > 1):
        found = f"--variant {variant} is not in {name}" if variant else f"{name} holds several models"
        raise UserError(
            f"{found}; choose --variant from: {', '.join(v.removeprefix(VARIANT_PREFIX) for v in variants)}."
        )
    return Layout("original", repository, chosen, Repository(bundle) if bundle else repository)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        UserError: when it is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected a JSON object.")
    return content


def _is_variant(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("model_type") == "acestep"


def _full_name(variant: str) -> str:
    return variant if variant.startswith(VARIANT_PREFIX) else VARIANT_PREFIX + variant


def _bundle_for(repository: Repository, bundle: str | None) -> Repository:
    if bundle:
        return Repository(bundle)
    above = repository.local.resolve().parent
    if repository.is_local and (above / "vae").is_dir() and (above / TEXT_ENCODER_FOLDER).is_dir():
        return Repository(str(above))
    return Repository(BUNDLE)
