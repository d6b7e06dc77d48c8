"""The columns of an encoded dataset, and what is known of the models that made it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import datasets
from datasets import Array2D, Features, Value

from acestep.errors import UserError

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)
FRAMES_PER_SECOND = 25
PROMPT_KINDS = {"caption": "encoder_hidden_states", "genre": "genre_encoder_hidden_states"}
TENSORS = ("latents", "latents_std", "encoder_hidden_states", "genre_encoder_hidden_states")
RECORD_COLUMN = "encoded_by"


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
            "latents_sha256": Value("string"),
            "conditions_sha256": Value("string"),
            RECORD_COLUMN: Value("string"),
            "latents": latents,
            "latents_std": latents,
            "encoder_hidden_states": condition,
            "genre_encoder_hidden_states": condition,
        }
    )


@dataclass(frozen=True)
class ModelRecord:
    """Which models encoded a row; it lies as JSON in each row's column `encoded_by`.

    In the rows, because nothing else stays with them on every way that they go: the description of a `DatasetInfo` is
    lost on the Hub, and rows of two datasets that somebody joins would share one.

    Attributes:
        model: Hub id, or the last part of a local folder's path (a path of one machine says nothing on another).
        revision: the Hub commit, None for a folder.
        vae, text_encoder, condition_encoder: fingerprints, see `Checkpoint.fingerprint`.
        vae_model, vae_revision: where VAE and text encoder came from, as `model` and `revision`; the model itself
            unless it is one variant of the original layout.
        encode_dtype: that the encoders computed in.
        schema_version: of the columns.
    """

    model: str
    revision: str | None
    vae: str
    text_encoder: str
    condition_encoder: str
    vae_model: str = ""
    vae_revision: str | None = None
    encode_dtype: str = "float32"
    schema_version: int = SCHEMA_VERSION

    def as_json(self) -> str:
        """The text that `parse_record` reads."""
        return json.dumps(asdict(self), sort_keys=True)


def read_record(dataset: datasets.Dataset, name: str) -> ModelRecord:
    """The models that encoded a dataset.

    Args:
        name: how errors name the dataset.

    Raises:
        UserError: for a dataset that prepare_dataset.py did not make, one of a later schema, or one whose rows were
            encoded by different models.
    """
    if RECORD_COLUMN in dataset.column_names:
        return parse_records(dataset.unique(RECORD_COLUMN), name)
    try:  # schema 1 kept it in the description
        record = json.loads(dataset.info.description)["acestep_dataset"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{name}: not an encoded ACE-Step dataset (no column {RECORD_COLUMN}, which names the models). "
            "Make one with scripts/prepare_dataset.py."
        ) from None
    return _record(record, name)


def parse_records(texts: list[str], name: str) -> ModelRecord:
    """The one record that all rows share.

    Args:
        texts: the different values of the column `encoded_by`.

    Raises:
        UserError: see `read_record`.
    """
    if not texts:
        raise UserError(f"{name}: has no rows.")
    try:
        records = [_record(json.loads(text), name) for text in texts]
    except (ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: its column {RECORD_COLUMN} is not what prepare_dataset.py writes.") from None
    if len({(record.condition_encoder, record.vae) for record in records}) > 1:
        models = ", ".join(sorted({record.model for record in records}))
        raise UserError(
            f"{name}: its rows were encoded by {len(records)} different models ({models}); expected one. "
            "Prepare all songs with the same one."
        )
    return records[0]


def _record(record: dict[str, Any], name: str) -> ModelRecord:
    found = record.get("schema_version")
    if found not in READABLE_VERSIONS:
        raise UserError(
            f"{name}: has schema version {found}, this software reads versions "
            f"{' and '.join(map(str, READABLE_VERSIONS))}. Update it, or prepare the dataset again."
        )
    return ModelRecord(**record)
