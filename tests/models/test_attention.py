"""Our attention beside the released one's: the same numbers, no dense mask."""

import copy

import pytest
import torch
from diffusers import AceStepPipeline
from diffusers.models.transformers.ace_step_transformer import AceStepAttnProcessor2_0
from peft import LoraConfig
from safetensors.torch import load_file
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acestep.errors import UserError
from acestep.models.attention import install_attention, remove_attention, valid_lengths
from acestep.models.attention_blocks import full_attention, sliding_attention
from acestep.models.attention_flex import band, flex_sliding_attention
from acestep.models.checkpoint import Checkpoint
from acestep.models.tiny import tiny_components
from tests.conftest import REFERENCE
from tests.models.attention_cases import (
    TARGETS,
    assert_equal_steps,
    make_batch,
    make_transformer,
    step_of,
    velocity_of,
)

LENGTHS = (1, 2, 3, 9, 64, 100, 127, 128, 129, 130, 255, 257, 300, 383, 384, 385, 399, 400)  # tokens
GEOMETRIES = {
    "2B": {},
    "XL": {"hidden_size": 40, "num_attention_heads": 8, "num_key_value_heads": 2},
    "no groups": {"num_attention_heads": 2},
}


def both(transformer, implementation="auto", **options):
    """The transformer as released, and a copy with our attention."""
    ours = copy.deepcopy(transformer)
    install_attention(ours, implementation, **options)
    return transformer, ours


@pytest.mark.parametrize("window", [8, 16, 128])
def test_velocity_and_every_gradient_are_the_dense_ones_at_every_length(window):
    native, ours = both(make_transformer(window))
    for tokens in LENGTHS:
        for frames in (2 * tokens, 2 * tokens - 1):
            batch = make_batch(frames)
            assert_equal_steps(step_of(ours, batch), step_of(native, batch))


@pytest.mark.parametrize("block", [1, 8, 40, 128, 300])
@pytest.mark.parametrize("geometry", list(GEOMETRIES))
def test_neither_block_size_nor_geometry_nor_batch_size_changes_anything(geometry, block):
    native, ours = both(make_transformer(20, layers=2, **GEOMETRIES[geometry]), block=block)
    for frames in (161, 800):
        batch = make_batch(frames, songs=3)
        assert_equal_steps(step_of(ours, batch), step_of(native, batch))


@pytest.mark.parametrize("geometry", ["base", "xl"])
def test_velocities_recorded_from_the_original_code_hold_and_the_gradients_are_the_released_ones(geometry):
    folder = REFERENCE / geometry
    expected = load_file(folder / "expected.safetensors")
    transformer = Checkpoint(str(folder)).transformer(torch.float32)
    install_attention(transformer)
    native = Checkpoint(str(folder)).transformer(torch.float32).requires_grad_(False)
    native.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=False))
    native, ours = both(native)
    for song in ("song0", "song1"):
        t, recorded = expected[f"{song}.timestep"], expected[f"{song}.velocity"]
        noise, clean = expected[f"{song}.noise"], expected[f"{song}.clean_latents"]
        batch = {
            "hidden_states": t[:, None, None] * noise + (1 - t[:, None, None]) * clean,
            "timestep": t,
            "timestep_r": t,
            "encoder_hidden_states": expected[f"{song}.encoder_hidden_states"],
            "context_latents": expected[f"{song}.context_latents"],
        }
        with torch.no_grad():
            found = velocity_of(transformer, batch)
        assert (found - recorded).abs().max() <= 1e-5 * max(1.0, recorded.abs().max().item())
        assert_equal_steps(step_of(ours, batch), step_of(native, batch))


def test_in_bf16_the_error_is_not_larger_than_the_released_ones():
    exact = make_transformer(16)
    native, ours = both(copy.deepcopy(exact).bfloat16())
    errors = {"native": 0.0, "ours": 0.0}
    for seed in range(4):
        batch = make_batch(300, seed=seed)
        low = make_batch(300, seed=seed, dtype=torch.bfloat16)
        velocity, gradients = step_of(exact, batch)
        for name, transformer in (("native", native), ("ours", ours)):
            found, found_gradients = step_of(transformer, low)
            errors[name] += float((found.float() - velocity).norm() / velocity.norm())
            errors[name] += sum(
                float((found_gradients[key].float() - value).norm() / value.norm()) for key, value in gradients.items()
            ) / len(gradients)
    assert 0 < errors["ours"] <= 1.2 * errors["native"]


class Shapes(TorchDispatchMode):
    """Every operator that runs, and the shape of every tensor that it gives."""

    def __init__(self):
        super().__init__()
        self.operators, self.shapes = set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.operators.add(function.overloadpacket.__name__)
        self.shapes |= {tuple(leaf.shape) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)}
        return out

    def square(self, tokens: int) -> set[tuple[int, ...]]:
        """Shapes with room for every pair of tokens."""
        return {shape for shape in self.shapes if torch.Size(shape).numel() >= tokens**2}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_no_tensor_holds_all_pairs_of_tokens_forward_or_backward(kind, padded):
    tokens = 1500
    transformer = make_transformer(128, layers=2, layer_types=[kind, kind])
    batch = make_batch(2 * tokens, songs=2 if padded else 1)
    if not padded:  # what is looked for is seen in the released attention
        with Shapes() as seen:
            step_of(transformer, batch)
        assert seen.square(tokens)
    install_attention(transformer)
    with Shapes() as seen, valid_lengths(transformer, *(([3000, 2000], [11, 4]) if padded else (None, None))):
        step_of(transformer, batch)
    assert not seen.square(tokens)
    # The kernel that keeps no scores, and not its composition of products and a softmax.
    assert "_scaled_dot_product_flash_attention_for_cpu_backward" in seen.operators
    assert not {"_softmax", "_safe_softmax", "_softmax_backward_data"} & seen.operators


def test_keys_are_never_repeated_for_their_group_of_queries():
    query, key = torch.randn(1, 1000, 8, 16, requires_grad=True), torch.randn(1, 1000, 2, 16, requires_grad=True)
    with Shapes() as seen:
        out = full_attention(query, key, key, 0.25) + sliding_attention(query, key, key, 64, 0.25)
        out.sum().backward()
    heads = {shape[1] for shape in seen.shapes if len(shape) == 4 and shape[3] == 16 and shape[2] > 1000}
    assert heads == {2}  # all attention runs with the keys' number of heads


@pytest.mark.parametrize("window", [8, 128, 130])
def test_flex_attention_sees_what_the_blocks_see(window):
    for tokens, lengths in ((100, None), (300, None), (515, None), (515, torch.tensor([515, 130]))):
        draw = torch.Generator().manual_seed(0)
        songs = 1 if lengths is None else 2
        inputs = [torch.randn(songs, tokens, heads, 16, generator=draw) for heads in (4, 2, 2)]
        expected = sliding_attention(*inputs, window, 0.25, lengths=lengths)
        found = flex_sliding_attention(*inputs, window, 0.25, lengths)  # on the CPU it has no backward pass
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        # Without compiling, blocks are not looked at: they are compared with the library's, from the dense mask.
        mask = band(tokens, window, torch.device("cpu"), lengths)
        dense = create_block_mask(mask.mask_mod, None, None, tokens, tokens, device="cpu") if songs == 1 else None
        assert dense is None or torch.equal(mask.to_dense(), dense.to_dense())


def test_removing_gives_the_original_back():
    transformer = make_transformer()
    batch = make_batch(400)
    before, processors = step_of(transformer, batch), dict(transformer.attn_processors)
    install_attention(transformer)
    install_attention(transformer, "blockwise", block=64)  # twice: nothing is nested
    assert not any(processor in processors.values() for processor in transformer.attn_processors.values())
    assert install_attention(transformer, "native") == "native"
    assert transformer.attn_processors == processors
    assert all(type(processor) is AceStepAttnProcessor2_0 for processor in transformer.attn_processors.values())
    install_attention(transformer)
    remove_attention(transformer)
    after = step_of(transformer, batch)
    assert not transformer.proj_in_conv._forward_hooks
    assert torch.equal(after[0], before[0])
    assert all(torch.equal(after[1][name], gradient) for name, gradient in before[1].items())


def test_every_layers_input_has_the_values_of_a_token_side_by_side():
    native, ours = both(make_transformer())
    contiguous = {"native": [], "ours": []}
    for name, transformer in (("native", native), ("ours", ours)):
        for layer in transformer.layers:
            seen = contiguous[name]
            layer.register_forward_pre_hook(
                lambda _module, inputs, named, seen=seen: seen.append(named["hidden_states"].is_contiguous()),
                with_kwargs=True,
            )
        velocity_of(transformer, make_batch(100))
    assert contiguous == {"native": [False] * 4, "ours": [True] * 4}


def test_the_models_weights_and_names_stay_the_same():
    native, ours = both(make_transformer())
    assert ours.state_dict().keys() == native.state_dict().keys()


def test_what_cannot_be_had_is_said():
    transformer = make_transformer(layers=2)
    with pytest.raises(UserError, match="--attention dense: expected one of auto"):
        install_attention(transformer, "dense")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--attention flex: needs a CUDA GPU"):
            install_attention(transformer, "flex")
    with pytest.raises(UserError, match="holds no AceStepTransformer1DModel"):
        install_attention(torch.nn.Linear(2, 2))
    install_attention(transformer)
    with pytest.raises(UserError, match="remove_attention"):
        transformer.set_attention_backend("native")
    step_of(transformer, make_batch(10))


def test_the_pipeline_makes_the_same_music():
    components = tiny_components(sliding_window=8, latent_channels=8, downsampling_ratios=(40, 48))
    pipeline = AceStepPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)

    def music() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipeline(
            prompt="a song", lyrics="la la", audio_duration=4.0, num_inference_steps=3, generator=generator,
            output_type="latent",
        ).audios  # fmt: skip

    native = torch.as_tensor(music())
    install_attention(pipeline.transformer)
    ours = torch.as_tensor(music())
    assert native.shape == ours.shape
    assert not torch.equal(native, torch.zeros_like(native))
    assert (ours - native).abs().max() <= 1e-4 * native.abs().max()
