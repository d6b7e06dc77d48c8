"""The columns of an encoded dataset, and what is known of the models that made it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import datasets
from datasets import Array2D, Features, Value

from acestep.errors import UserError

SCHEMA_VERSION = 1
FRAMES_PER_SECOND = 25
PROMPT_KINDS = {"caption": "encoder_hidden_states", "genre": "genre_encoder_hidden_states"}


def features(latent_channels: int, condition_size: int, dtype: str) -> Features:
    """Columns of a row, one row a song (or a segment of one).

    Args:
        latent_channels: of the VAE, 64 in all releases.
        condition_size: of the condition encoder, 2048 in all releases.
        dtype: "float16" or "float32", of the tensors.
    """
    latents = Array2D((None, latent_channels), dtype)
    condition = Array2D((None, condition_size), dtype)
    return Features(
        {
            "id": Value("string"),
            "song_id": Value("string"),
            "file_name": Value("string"),
            "start": Value("float32"),
            "duration": Value("float32"),
            "frames": Value("int32"),
            "caption": Value("string"),
            "genre": Value("string"),
            "lyrics": Value("string"),
            "language": Value("string"),
            "bpm": Value("int32"),
            "keyscale": Value("string"),
            "timesignature": Value("string"),
            "is_instrumental": Value("bool"),
            "custom_tag": Value("string"),
            "tag_position": Value("string"),
            "prompt_override": Value("string"),
            "genre_ratio": Value("int32"),
            "sources": Value("string"),
            "text_prompt": Value("string"),
            "genre_text_prompt": Value("string"),
            "lyric_prompt": Value("string"),
            "latents": latents,
            "latents_std": latents,
            "encoder_hidden_states": condition,
            "genre_encoder_hidden_states": condition,
        }
    )


@dataclass(frozen=True)
class ModelRecord:
    """Which models encoded a dataset; it lies as JSON in the dataset's description.

    Attributes:
        model: Hub id, or the last part of a local folder's path (a path of one machine says nothing on another).
        revision: the Hub commit, None for a folder.
        vae, text_encoder, condition_encoder: fingerprints, see `Checkpoint.fingerprint`.
        schema_version: of the columns.
    """

    model: str
    revision: str | None
    vae: str
    text_encoder: str
    condition_encoder: str
    schema_version: int = SCHEMA_VERSION

    def description(self) -> str:
        """The text that `read_record` reads."""
        return json.dumps({"acestep_dataset": asdict(self)}, indent=2)


def read_record(dataset: datasets.Dataset, name: str) -> ModelRecord:
    """The models that encoded a dataset.

    Args:
        name: how errors name the dataset.

    Raises:
        UserError: for a dataset that prepare_dataset.py did not make, or one of a later schema.
    """
    try:
        record: dict[str, Any] = json.loads(dataset.info.description)["acestep_dataset"]
        found = record["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{name}: not an encoded ACE-Step dataset (its description holds no record of the models). "
            "Make one with scripts/prepare_dataset.py."
        ) from None
    if found != SCHEMA_VERSION:
        raise UserError(
            f"{name}: has schema version {found}, this software reads version {SCHEMA_VERSION}. Prepare it again."
        )
    return ModelRecord(**record)
