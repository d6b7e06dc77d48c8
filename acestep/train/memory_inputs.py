"""What an estimate is made from: a model's configuration without its weights, the lengths in a dataset."""

from pathlib import Path
from typing import Any

from acestep.dataset.rows import EncodedRows
from acestep.dataset.subset import SubsetRows
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.conditioning import MAX_LYRIC_TOKENS, MAX_TEXT_TOKENS
from acestep.models.configs import component_configs
from acestep.models.layout import read_json

MOST_TOKENS = MAX_LYRIC_TOKENS + 1 + MAX_TEXT_TOKENS  # of a condition: lyrics, timbre, text
CONDITION = ("encoder_hidden_states", "genre_encoder_hidden_states")

# The released sizes: a checkpoint of each, and what its configuration says that diffusers' defaults do not.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "2b": ("ACE-Step/acestep-v15-base", {}),
    "xl": (
        "ACE-Step/acestep-v15-xl-base",
        {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "encoder_hidden_size": 2048,
        },
    ),
}


def read_transformer_config(name: str, variant: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """The transformer's configuration from a `config.json`, a folder or a Hub id; no weights are read or downloaded.

    Args:
        name: a `config.json` of the transformer in diffusers' layout or of an original checkpoint, or whatever
            `Checkpoint` opens.

    Raises:
        UserError: when there is none.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        return Checkpoint(name, variant, revision=revision).transformer_config
    config = read_json(path)
    if config.get("model_type") == "acestep":
        return component_configs(config, path)["transformer"]
    if config.get("_class_name") != "AceStepTransformer1DModel":
        raise UserError(f"{path}: is of no ACE-Step 1.5 transformer.")
    return config


def condition_lengths(rows: Any) -> list[int] | None:
    """Tokens of each row's condition, the longer one where it has two; None for streamed rows, which do not say."""
    if isinstance(rows, SubsetRows):
        every = condition_lengths(rows.rows)
        return every and [every[index] for index in rows.indices]
    if not isinstance(rows, EncodedRows):
        return None
    import pyarrow.compute as pc

    lengths = []
    for name in CONDITION:
        column = rows.dataset.with_format("arrow").select_columns([name])[:].column(name)
        chunks = [pc.list_value_length(chunk.storage).to_pylist() for chunk in column.chunks]
        lengths.append([length or 0 for chunk in chunks for length in chunk])
    return [max(both) for both in zip(*lengths, strict=True)]
