"""From the original release's `config.json` to the configurations of diffusers' components."""

from pathlib import Path
from typing import Any

from acestep.errors import UserError

ALTERNATING = ("sliding_attention", "full_attention")


def component_configs(config: dict[str, Any], where: Path) -> dict[str, dict[str, Any]]:
    """Constructor arguments of `transformer`, `condition_encoder`, `audio_tokenizer`, `audio_token_detokenizer`.

    Args:
        config: the content of an original `config.json` (`model_type` "acestep").
        where: the file, for errors.

    Raises:
        UserError: for a missing entry, or an attention pattern that diffusers' encoders cannot express.
    """
    try:
        return _component_configs(config, where)
    except KeyError as error:
        raise UserError(
            f"{where}: has no entry {error}; expected the configuration of an ACE-Step 1.5 model."
        ) from None


def is_xl(transformer_config: dict[str, Any]) -> bool:
    """Whether the timbre encoder prepends its special token: the XL models, whose encoder is narrower than the DiT."""
    narrow = transformer_config.get("encoder_hidden_size") not in (None, transformer_config["hidden_size"])
    return narrow or str(transformer_config.get("model_version") or "").startswith("xl")


def _component_configs(config: dict[str, Any], where: Path) -> dict[str, dict[str, Any]]:
    layer_types = list(config["layer_types"])
    if any(kind != ALTERNATING[i % 2] for i, kind in enumerate(layer_types)):
        raise UserError(f"{where}: layer_types is {layer_types}; expected sliding and full attention in turn.")
    attention = {
        "head_dim": config["head_dim"],
        "rope_theta": float(_rope_theta(config)),
        "attention_bias": config["attention_bias"],
        "attention_dropout": config["attention_dropout"],
        "rms_norm_eps": config["rms_norm_eps"],
        "sliding_window": config["sliding_window"],
    }
    hidden_size = config["hidden_size"]
    encoder_size = config.get("encoder_hidden_size") or hidden_size
    encoder = attention | {
        "hidden_size": encoder_size,
        "intermediate_size": config.get("encoder_intermediate_size") or config["intermediate_size"],
        "num_attention_heads": config.get("encoder_num_attention_heads") or config["num_attention_heads"],
        "num_key_value_heads": config.get("encoder_num_key_value_heads") or config["num_key_value_heads"],
    }
    audio = encoder | {
        "audio_acoustic_hidden_dim": config["audio_acoustic_hidden_dim"],
        "pool_window_size": config["pool_window_size"],
        "num_attention_pooler_hidden_layers": config["num_attention_pooler_hidden_layers"],
    }
    return {
        "transformer": attention
        | {
            "hidden_size": hidden_size,
            "intermediate_size": config["intermediate_size"],
            "num_hidden_layers": config["num_hidden_layers"],
            "num_attention_heads": config["num_attention_heads"],
            "num_key_value_heads": config["num_key_value_heads"],
            "in_channels": config["in_channels"],
            "audio_acoustic_hidden_dim": config["audio_acoustic_hidden_dim"],
            "patch_size": config["patch_size"],
            "layer_types": layer_types,
            "encoder_hidden_size": encoder_size,
            "is_turbo": bool(config.get("is_turbo", False)),
            "model_version": config.get("model_version"),
        },
        "condition_encoder": encoder
        | {
            "text_hidden_dim": config["text_hidden_dim"],
            "timbre_hidden_dim": config["timbre_hidden_dim"],
            "num_lyric_encoder_hidden_layers": config["num_lyric_encoder_hidden_layers"],
            "num_timbre_encoder_hidden_layers": config["num_timbre_encoder_hidden_layers"],
        },
        "audio_tokenizer": audio
        | {
            "fsq_dim": config["fsq_dim"],
            "fsq_input_levels": list(config["fsq_input_levels"]),
            "fsq_input_num_quantizers": config["fsq_input_num_quantizers"],
        },
        "audio_token_detokenizer": audio,
    }


def _rope_theta(config: dict[str, Any]) -> float:
    # transformers 5 writes it into a dictionary of its own
    return config["rope_theta"] if "rope_theta" in config else config["rope_parameters"]["rope_theta"]
