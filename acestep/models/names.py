"""Names of the weights: the original release's beside diffusers'."""

import re

# Which of the pipeline's components a weight of the original single file belongs to.
COMPONENT_OF_PREFIX = {
    "decoder.": "transformer",
    "encoder.": "condition_encoder",
    "tokenizer.": "audio_tokenizer",
    "detokenizer.": "audio_token_detokenizer",
}
NULL_CONDITION = "null_condition_emb"

_ATTENTION = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "o_proj": "to_out.0",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}
_ATTENTION_NAME = re.compile(r"(?<=_attn\.)(" + "|".join(_ATTENTION) + r")(?=\.)")
_PATCH_NAME = re.compile(r"^(proj_in|proj_out)\.1(?=\.)")


def diffusers_name(original: str) -> tuple[str, str] | None:
    """Component and name in diffusers of a weight of the original checkpoint, or None if it belongs to none.

    For example `decoder.layers.0.self_attn.q_proj.weight` is `("transformer", "layers.0.self_attn.to_q.weight")`.
    """
    if original == NULL_CONDITION:
        return "condition_encoder", NULL_CONDITION
    for prefix, component in COMPONENT_OF_PREFIX.items():
        if original.startswith(prefix):
            name = original.removeprefix(prefix)
            name = _ATTENTION_NAME.sub(lambda match: _ATTENTION[match.group()], name)
            if component == "transformer":
                name = _PATCH_NAME.sub(r"\1_conv", name)
            return component, name
    return None
