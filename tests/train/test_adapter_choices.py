"""Which layers get an adapter, of which rank, from which start; and what is saved of it."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.options import parse_options
from acestep.train.adapter import WEIGHTS_NAME, add_adapter, save_lora
from acestep.train.options import TrainOptions
from acestep.train.starts import PissaStart
from acestep.train.targets import expand_target_modules, read_patterns, targeted
from tests.train.encoded import CHANNELS

SHORT = ("--max_train_steps", 3, "--rank", 4, "--learning_rate", 1e-2, "--evaluation_draws", 2)


@pytest.fixture
def transformer(encoded):
    return Checkpoint(str(encoded.model)).transformer(torch.float32)


def inputs(transformer, frames: int = 40) -> dict:
    random = torch.Generator().manual_seed(0)
    width = transformer.config.encoder_hidden_size or transformer.config.hidden_size
    return {
        "hidden_states": torch.randn(1, frames, CHANNELS, generator=random),
        "timestep": torch.tensor([0.4]),
        "timestep_r": torch.tensor([0.4]),
        "encoder_hidden_states": torch.randn(1, 7, width, generator=random),
        "context_latents": torch.randn(1, frames, 2 * CHANNELS, generator=random),
    }


def played(folder, model) -> torch.Tensor:
    """The velocity under an adapter as `AceStepPipeline.load_lora_weights` loads it."""
    from acestep.models.generation import Generator

    generator = Generator(Checkpoint(str(model)), "cpu", torch.float32, [str(folder)], [1.0])
    with torch.no_grad():
        return generator.pipeline.transformer(**inputs(generator.pipeline.transformer)).sample


def test_layers_are_chosen_by_group_name_expression_and_block(transformer):
    def chosen(names, layers=None) -> set[str]:
        return set(targeted(expand_target_modules(names, transformer, layers), transformer))

    blocks = len(transformer.layers)
    assert len(chosen(["attention"])) == 8 * blocks
    assert chosen(["self_attn"]) | chosen(["cross_attn"]) == chosen(["attention"])
    assert not chosen(["self_attn"]) & chosen(["cross_attn"])
    assert {name.rsplit(".", 1)[1] for name in chosen(["mlp"])} == {"gate_proj", "up_proj", "down_proj"}
    assert chosen([r"layers\.\d+\.self_attn\.to_[qv]"]) == {
        f"layers.{block}.self_attn.{name}" for block in range(blocks) for name in ("to_q", "to_v")
    }
    assert chosen(["self_attn.to_q"], ["1"]) == {"layers.1.self_attn.to_q"}
    assert chosen(["to_q"], ["0-1"]) == {f"layers.{b}.{kind}_attn.to_q" for b in (0, 1) for kind in ("self", "cross")}


@pytest.mark.parametrize(
    ("names", "layers", "message"),
    [
        (["to_x"], None, "--target_modules to_x: the transformer has no such linear layer"),
        (["layers.*to_x"], None, "--target_modules layers.*to_x"),
        (["to_[q"], None, "no regular expression"),
        (["attention"], ["99"], "--layers 99: the transformer has blocks 0 to"),
        (["attention"], ["first"], "--layers first: expected numbers"),
        (["condition_embedder"], ["0"], "none of --target_modules condition_embedder"),
    ],
)
def test_layers_that_are_not_there_are_named(transformer, names, layers, message):
    with pytest.raises(UserError) as error:
        expand_target_modules(names, transformer, layers)
    assert message in str(error.value)


def test_patterns_of_ranks_reach_the_layers_and_alpha_follows_them(encoded, train_here, tmp_path):
    """The strength is alpha / rank = 1 everywhere unless an alpha is given."""
    file = tmp_path / "patterns.yaml"
    file.write_text(
        "rank_pattern: {self_attn.to_q: 2, 'layers\\.0\\..*to_k': 6}\nalpha_pattern: {cross_attn.to_v: 8}\n"
    )
    train_here(tmp_path / "out", *SHORT, "--rank_pattern_file", file)
    weights = load_file(tmp_path / "out" / WEIGHTS_NAME)
    ranks = {name: weight.shape[0] for name, weight in weights.items() if ".lora_A." in name}
    assert ranks["transformer.layers.1.self_attn.to_q.lora_A.weight"] == 2
    assert ranks["transformer.layers.0.cross_attn.to_k.lora_A.weight"] == 6
    assert ranks["transformer.layers.1.self_attn.to_k.lora_A.weight"] == 4
    trained = Checkpoint(str(encoded.model)).transformer(torch.float32)
    for name, module in targeted(expand_target_modules(["attention"], trained), trained).items():
        key = f"transformer.{name}.lora_"
        strength = 2.0 if "cross_attn.to_v" in name else 1.0
        module.weight.data += strength * weights[f"{key}B.weight"] @ weights[f"{key}A.weight"]
    with torch.no_grad():
        expected = trained(**inputs(trained)).sample
    torch.testing.assert_close(played(tmp_path / "out", encoded.model), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank_pattern: {to_x: 3}", "'to_x' matches no layer"),
        ("rank_pattern: {to_q: 0}", "'to_q' is 0; expected a whole number"),
        ("rank_pattern: {to_q: 2.5}", "'to_q' is 2.5"),
        ("alpha_pattern: {to_q: many}", "'to_q' is 'many'; expected a number"),
        ("rank_patterns: {to_q: 3}", "expected rank_pattern and alpha_pattern"),
        ("rank_pattern: {'to_[q': 3}", "no regular expression"),
        ("[", "cannot be read"),
    ],
)
def test_patterns_that_make_no_sense_are_named(transformer, tmp_path, text, message):
    file = tmp_path / "patterns.yaml"
    file.write_text(text)
    names = targeted(expand_target_modules(["attention"], transformer), transformer)
    with pytest.raises(UserError) as error:
        read_patterns(str(file), True).check(names, str(file))
    assert message in str(error.value)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_pissa_adapter_is_saved_as_the_lora_that_does_the_same_to_the_models_own_weights(
    encoded, transformer, tmp_path, start, use_rslora
):
    with torch.no_grad():
        base = transformer(**inputs(transformer)).sample
    own = {name: module.weight.clone() for name, module in transformer.named_modules() if hasattr(module, "weight")}
    parameters = add_adapter(transformer, ["attention"], 4, 6, use_rslora, seed=0, start=start)
    pissa = PissaStart.of(transformer)
    moved = transformer.layers[0].self_attn.to_q.get_base_layer().weight - own["layers.0.self_attn.to_q"]
    assert moved.abs().max() > 1e-2  # the model's weights hold the rest
    with torch.no_grad():
        torch.testing.assert_close(transformer(**inputs(transformer)).sample, base, rtol=0, atol=1e-5)
        for number, parameter in enumerate(parameters):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)), alpha=0.02)
        trained = transformer(**inputs(transformer)).sample
    save_lora(transformer, tmp_path, pissa)
    torch.testing.assert_close(played(tmp_path, encoded.model), trained, rtol=0, atol=1e-5)
    assert (trained - base).abs().max() > 1e-2


def test_a_pissa_run_goes_on_bit_for_bit(train_here, tmp_path):
    options = ("--init_lora_weights", "pissa", "--max_train_steps", 6, "--rank", 4, "--learning_rate", 1e-3)
    train_here(tmp_path / "whole", *options)
    train_here(tmp_path / "cut", *options, "--checkpointing_steps", 3)
    (tmp_path / "cut" / WEIGHTS_NAME).unlink()
    train_here(tmp_path / "cut", *options, "--resume_from_checkpoint", "latest")
    whole, cut = (load_file(tmp_path / name / WEIGHTS_NAME) for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert whole["transformer.layers.0.self_attn.to_q.lora_A.weight"].shape[0] == 8


def test_an_eva_start_holds_the_principal_components_of_what_a_layer_sees(encoded, train_here, tmp_path):
    summary = train_here(tmp_path, *SHORT, "--init_lora_weights", "eva", "--checkpointing_steps", 1)
    assert summary["evaluation_before"]["loss"] > 0  # B is zero: the run starts from the model itself
    plain = train_here(tmp_path / "plain", *SHORT)
    assert summary["evaluation_before"] == plain["evaluation_before"]
    weights = load_file(tmp_path / "checkpoint-1" / WEIGHTS_NAME)
    for name in ("self_attn.to_q", "cross_attn.to_k"):
        matrix = weights[f"transformer.layers.0.{name}.lora_A.weight"]
        # the first step's learning rate is 0, so they are still what the start made them: orthonormal directions
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(4), rtol=0, atol=1e-3)


def test_gaussian_start_and_seed_choose_the_first_matrices(transformer, encoded):
    def first(start: str, seed: int) -> torch.Tensor:
        model = Checkpoint(str(encoded.model)).transformer(torch.float32)
        return add_adapter(model, ["to_q"], 8, 8, False, seed, start=start)[0].detach()

    assert torch.equal(first("gaussian", 1), first("gaussian", 1))
    assert not torch.equal(first("gaussian", 1), first("gaussian", 2))
    assert first("gaussian", 1).std() == pytest.approx(1 / 8, rel=0.2)  # PEFT's: 1 / rank
    assert not torch.equal(first("gaussian", 1), first("default", 1))


def test_training_goes_on_from_an_adapter_in_diffusers_or_peft_layout(encoded, train_here, tmp_path):
    """Its own rank, alpha and layers are taken over; without a step it is the same adapter."""
    first = ("--rank", 3, "--lora_alpha", 9, "--target_modules", "mlp", "--layers", "0", "--max_train_steps", 4)
    before = train_here(tmp_path / "first", *first, "--learning_rate", 1e-2, "--evaluation_draws", 2)
    after = train_here(tmp_path / "second", *SHORT, "--init_lora", tmp_path / "first")
    assert after["evaluation_before"]["loss"] == pytest.approx(before["evaluation_after"]["loss"], rel=1e-6)
    weights = load_file(tmp_path / "second" / WEIGHTS_NAME)
    assert {weight.shape[0] for name, weight in weights.items() if ".lora_A." in name} == {3}
    assert all(".layers.0.mlp." in name for name in weights)
    with safe_open(tmp_path / "second" / WEIGHTS_NAME, "pt") as file:
        assert '"transformer.lora_alpha": 9' in file.metadata()["lora_adapter_metadata"]


@pytest.mark.parametrize("adapter", ["lora", "lokr"])
def test_dropout_changes_training_and_not_with_the_layout_of_batches(train_here, tmp_path, adapter):
    options = ("--adapter", adapter, "--max_train_steps", 4, "--rank", 4, "--learning_rate", 1e-2)
    options += ("--crop_seconds", 1.6, "--evaluation_draws", 0)
    layouts = {"2 x 2": (2, 2), "1 x 4": (1, 4), "4 x 1": (4, 1)}
    found = {}
    for name, (batch, accumulation) in layouts.items():
        layout = ("--train_batch_size", batch, "--gradient_accumulation_steps", accumulation)
        train_here(tmp_path / name, *options, *layout, "--lora_dropout", 0.5)
        found[name] = load_file(tmp_path / name / WEIGHTS_NAME)
    train_here(tmp_path / "without", *options, *layout)
    without = load_file(tmp_path / "without" / WEIGHTS_NAME)
    first = found["2 x 2"]
    for other in found.values():
        assert all(torch.allclose(first[key], other[key], rtol=1e-5, atol=1e-5) for key in first)
    assert max((first[key] - without[key]).abs().max() for key in first) > 1e-3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--init_lora_weights", "pissa", "--quantization", "nf4"), "are in fewer bits"),
        (("--init_lora_weights", "pissa", "--adapter", "dora"), "is for --adapter lora"),
        (("--init_lora_weights", "eva", "--init_lora", "x"), "leave one out"),
        (("--rank_pattern_file", "x", "--adapter", "oft"), "no patterns for --adapter oft"),
        (("--lora_dropout", "0.1", "--adapter", "oft"), "has no dropout"),
        (("--quantization", "nf4", "--adapter", "lokr"), "cannot put it on layers of 4 bits"),
        (("--optimizer", "prodigy", "--loraplus_lr_ratio", "4"), "one learning rate"),
        (("--lr_scheduler", "piecewise_constant"), "each needs the other"),
        (("--lora_dropout", "1"), "--lora_dropout is 1.0"),
        (("--validation_split", "0.1", "--validation_dataset", "x"), "choose one"),
        (("--preview_steps", "5"), "needs --preview_prompts"),
    ],
)
def test_options_that_do_not_go_together_are_refused(more, message):
    needed = ("--dataset", "d", "--pretrained_model_name_or_path", "m", "--output_dir", "o")
    with pytest.raises(UserError) as error:
        parse_options(TrainOptions, "", [*needed, *more]).check()
    assert message in str(error.value)


def test_no_dropout_is_left_in_what_is_saved(encoded, train_here, tmp_path):
    """diffusers' pipelines would play it with dropout at work."""
    from acestep.models.generation import Generator

    train_here(tmp_path, *SHORT, "--lora_dropout", 0.5)
    generator = Generator(Checkpoint(str(encoded.model)), "cpu", torch.float32, [str(tmp_path)], [1.0])
    generator.pipeline.transformer.train()
    modules = [module for name, module in generator.pipeline.transformer.named_modules() if "lora_dropout" in name]
    assert modules
    assert not any(isinstance(module, torch.nn.Dropout) and module.p for module in modules)
