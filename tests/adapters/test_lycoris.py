"""LoKr and LoHa as others write them, in whatever shapes, and as PEFT holds them."""

import pytest
import torch
from safetensors.torch import save_file

from acestep.adapters.lokr import fit_to_peft
from acestep.adapters.reading import read_adapter
from acestep.errors import UserError
from acestep.models.adapter_loading import load_adapter
from acestep.models.checkpoint import Checkpoint
from tests.adapters.making import assert_same, velocity
from tests.adapters.players import comfyui_velocity


def write(path, layers: dict[str, dict[str, tuple]]):
    """A file with random weights of these shapes; `alpha` is a value."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer, parts in layers.items():
        for part, shape in parts.items():
            value = torch.tensor(float(shape)) if part == "alpha" else torch.randn(shape, generator=generator) / 4
            tensors[f"{layer}.{part}"] = value
    save_file(tensors, path)
    return path


Q, UP, DOWN = "lycoris_layers_0_self_attn_q_proj", "lycoris_layers_1_mlp_up_proj", "lycoris_layers_2_mlp_down_proj"


@pytest.mark.parametrize(
    "layers",
    {
        # 32 x 32 and 64 x 32, near the square root
        "whole w1": {
            Q: {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8), "alpha": 1},
            UP: {"lokr_w1": (8, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8), "alpha": 6},
        },
        # alpha has nothing to be divided by
        "both whole": {Q: {"lokr_w1": (4, 4), "lokr_w2": (8, 8), "alpha": 1e9}},
        "both whole by a factor": {
            Q: {"lokr_w1": (2, 2), "lokr_w2": (16, 16)},
            DOWN: {"lokr_w1": (2, 2), "lokr_w2": (16, 32)},
        },
        "both of low rank": {
            Q: {"lokr_w1_a": (4, 1), "lokr_w1_b": (1, 4), "lokr_w2_a": (8, 1), "lokr_w2_b": (1, 8), "alpha": 3}
        },
        # PEFT holds none of these as they are
        "low rank beside whole": {Q: {"lokr_w1_a": (4, 1), "lokr_w1_b": (1, 4), "lokr_w2": (8, 8), "alpha": 3}},
        "a rank too high": {Q: {"lokr_w1": (4, 4), "lokr_w2_a": (8, 6), "lokr_w2_b": (6, 8), "alpha": 3}},
        "mixed": {
            Q: {"lokr_w1_a": (4, 1), "lokr_w1_b": (1, 4), "lokr_w2_a": (8, 1), "lokr_w2_b": (1, 8), "alpha": 3},
            UP: {"lokr_w1": (8, 4), "lokr_w2_a": (8, 1), "lokr_w2_b": (1, 8), "alpha": 2},
        },
        "without alpha": {Q: {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8)}},
        "loha": {
            Q: {"hada_w1_a": (32, 3), "hada_w1_b": (3, 32), "hada_w2_a": (32, 3), "hada_w2_b": (3, 32), "alpha": 2},
            UP: {"hada_w1_a": (64, 2), "hada_w1_b": (2, 32), "hada_w2_a": (64, 2), "hada_w2_b": (2, 32)},
        },
    }.items(),
    ids=lambda item: item[0],
)
def test_a_file_of_lycoris_plays_here_as_in_comfyui(models, tmp_path, layers):
    path = write(tmp_path / "lycoris.safetensors", layers[1])
    expected = comfyui_velocity(Checkpoint(str(models["base"])).transformer(torch.float32), path)
    transformer = Checkpoint(str(models["base"])).transformer(torch.float32)
    base = velocity(transformer)
    adapter = load_adapter(transformer, path, "lycoris")
    assert adapter.layout == "lycoris"
    assert not adapter.warnings
    assert_same(velocity(transformer), expected)
    assert (expected - base).abs().max() > 1e-3 * base.abs().max()


def test_widths_split_in_a_way_that_peft_has_not_are_refused(tmp_path):
    layers = {Q: {"lokr_w1": (4, 2), "lokr_w2": (8, 16)}}
    with pytest.raises(UserError, match=r"no decompose_factor that splits .* 32 = 2 x 16, 32 = 4 x 8"):
        read_adapter(write(tmp_path / "odd.safetensors", layers))
    assert fit_to_peft({}, "nothing") == {"decompose_both": False, "decompose_factor": -1}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"lokr_w1": (4, 4)}, "lacks lokr_w2 or lokr_w2_a and lokr_w2_b"),
        ({"lokr_w1": (4, 4), "lokr_w2_a": (8, 2)}, "lacks lokr_w2 or lokr_w2_a and lokr_w2_b"),
        ({"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (3, 8)}, "the shapes do not go together"),
        ({"hada_w1_a": (32, 3), "hada_w1_b": (3, 32), "hada_w2_a": (32, 3), "hada_w2_b": (3, 30)}, "of one shape"),
        ({"lokr_w1": (4, 4), "lokr_w2": (8, 8), "lokr_t2": (2, 2, 3, 3)}, "lokr_t2: not known"),
        ({"lokr_w1": (4, 4), "lokr_w2": (8, 8), "dora_scale": (32, 1)}, "dora_scale beside lokr"),
        ({"lora_down.weight": (2, 32), "lora_up.weight": (32, 2), "dora_scale": (1, 32)}, r"dora_scale is \[1, 32\]"),
        ({"oft_blocks": (4, 8, 8)}, "oft_blocks: not known"),
    ],
)
def test_halves_and_what_peft_has_not_are_refused_by_name(tmp_path, parts, message):
    with pytest.raises(UserError, match=message):
        read_adapter(write(tmp_path / "half.safetensors", {Q: parts}))
