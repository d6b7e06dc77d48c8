"""The estimate of a run's memory beside what PyTorch's allocator hands out in the run itself.

The two share no counting: the estimate follows tensors without data through a dispatch mode; the run is `train()` on
real tensors, and its peak is the running sum of what the C++ allocator reports to the profiler, kernels' own included.
"""

import dataclasses
import warnings

import pytest
import torch

from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint
from acestep.models.quantization import quantize
from acestep.models.tiny import save_tiny_pipeline, tiny_components
from acestep.options import parse_options
from acestep.train.adapter import add_adapter
from acestep.train.memory import Estimate, estimate
from acestep.train.memory_counting import LiveBytes
from acestep.train.memory_fit import fit, launch_line, needed, parse_size, savings
from acestep.train.memory_inputs import PRESETS, condition_lengths, read_transformer_config
from acestep.train.memory_report import advice, beside_card, run_estimate
from acestep.train.optimizer_state import trainable
from acestep.train.optimizers import make_optimizer
from acestep.train.options import TrainOptions
from acestep.train.validation import open_splits
from tests.train.encoded import CHANNELS, Encoded, make_dataset

FRAMES = 900  # enough for the sliding layers' blocks
SMALL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "encoder_hidden_size": 64}
GIB = 2**30


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory") / "model"
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    save_tiny_pipeline(
        tiny_components(0, latent_channels=CHANNELS, downsampling_ratios=(40, 48), **SMALL, **heads), folder
    )
    return folder


@pytest.fixture(scope="module")
def datasets(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    return {
        lengths: Encoded(model, make_dataset(folder / str(number), model, list(lengths)))
        for number, lengths in enumerate([(FRAMES,), (FRAMES // 2,), (FRAMES, FRAMES // 2)])
    }


def _options(*arguments) -> TrainOptions:
    given = ["--dataset", "data", "--pretrained_model_name_or_path", "model", "--output_dir", "out", *arguments]
    return parse_options(TrainOptions, "", list(map(str, given)))


def _allocated_peak(run) -> int:
    """The most bytes that the CPU's allocator had handed out while `run` ran."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


@pytest.mark.parametrize(
    ("lengths", "more"),
    [
        ((FRAMES,), ()),
        ((FRAMES,), ("--gradient_checkpointing",)),
        ((FRAMES // 2,), ("--gradient_checkpointing",)),
        ((FRAMES // 2,), ("--optimizer", "adamw8bit")),
        ((FRAMES,), ("--gradient_checkpointing", "--quantization", "nf4")),
        ((FRAMES // 2,), ("--quantization", "int8")),
        ((FRAMES, FRAMES // 2), ("--train_batch_size", "2", "--gradient_checkpointing")),
        ((FRAMES, FRAMES // 2), ("--gradient_accumulation_steps", "2", "--ema_decay", "0.9")),
    ],
    ids=lambda value: "-".join(map(str, value)).replace("--", "") or "plain",
)
def test_the_estimate_is_within_a_tenth_of_what_the_allocator_hands_out(
    lengths, more, datasets, train_here, tmp_path, request
):
    data = datasets[lengths]
    common = ("--mixed_precision", "bf16", "--rank", 64, "--max_train_steps", 2, "--evaluation_draws", 0)
    real = _allocated_peak(lambda: train_here(tmp_path / "out", *common, *more, data=data))
    options = _options("--dataset", data.dataset, *common, *more)
    rows, _, _ = open_splits(options)
    found = run_estimate(options, rows, Checkpoint(str(data.model)), "bf16", device="cpu")
    print(f"{request.node.callspec.id}: {found.total / real:.3f} of {real / 2**20:.1f} MiB")
    assert found.total == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor", "prodigy"])
def test_states_of_the_optimizer_have_the_size_of_real_ones(model, optimizer):
    options = _options("--optimizer", optimizer, "--rank", 64)
    config = read_transformer_config(str(model / "transformer/config.json"))
    found = estimate(options, [400], [50], config).parts
    transformer = Checkpoint(str(model)).transformer()
    add_adapter(transformer, ["attention"], 64, 64, use_rslora=False, seed=0)
    named = trainable(transformer)
    real = make_optimizer(named, options)
    for _, parameter in named:
        parameter.grad = torch.ones_like(parameter)
    real.step()
    tensors = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for state in real.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    }
    size = sum(-(-size // 512) * 512 for size in tensors.values())
    if optimizer == "prodigy":  # it keeps no start of weights that begin as zeros, which the estimate does not know
        assert size <= found["optimizer"] <= 1.2 * size
    else:
        assert found["optimizer"] == size
    assert found["adapter"] == sum(-(-parameter.nbytes // 512) * 512 for _, parameter in named)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantized_weights_have_the_size_of_real_ones(model, kind):
    options = _options("--quantization", kind, "--mixed_precision", "bf16")
    found = estimate(options, [40], [9], Checkpoint(str(model)).transformer_config).parts["weights"]
    transformer = Checkpoint(str(model)).transformer(torch.bfloat16)
    real = _allocated(lambda: quantize(transformer, kind, torch.bfloat16, torch.device("cpu")), transformer)
    silence = 15_000 * CHANNELS * 4
    assert found - silence == pytest.approx(real, rel=0.01)


def _allocated(change, transformer) -> int:
    """Bytes that a transformer's tensors hold after `change`, by the distinct addresses of their memory."""
    change()
    found = {}
    for module in transformer.modules():
        tensors = list(module._parameters.values())
        state = getattr(module, "state", None)
        tensors += [state.CB, state.SCB] if state is not None else []
        for parameter in module._parameters.values():
            quantized = getattr(parameter, "quant_state", None)
            if quantized is not None:
                inner = quantized.state2
                tensors += [quantized.absmax, quantized.code, quantized.offset, inner.absmax, inner.code]
            tensors += [getattr(parameter, "SCB", None)]
        for tensor in tensors:
            if tensor is not None:
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = -(-storage.nbytes() // 512) * 512
    return sum(found.values())


def test_a_layer_of_four_bits_takes_what_the_real_one_takes_while_it_computes():
    """Of few tokens, where the whole weight in bf16 is most of it, made anew in either pass.

    Not for int8: on a CPU, and only there, PyTorch casts whole weights to float32 in between.
    """
    from acestep.train import memory
    from acestep.train.memory_quantized import put_stand_ins

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            block = torch.nn.Sequential(torch.nn.Linear(1024, 4096, bias=False, dtype=torch.bfloat16))
            self.layers = torch.nn.ModuleList([block])

    def forward(layer):
        return layer(torch.ones(1, 40, 1024, dtype=torch.bfloat16, requires_grad=True))

    def both(layer):
        forward(layer).sum().backward()

    model, stand_in = Model(), Model().to("meta")
    quantize(model, "nf4", torch.bfloat16, torch.device("cpu"))
    real = [_allocated_peak(lambda run=run: run(model.layers[0])) for run in (forward, both)]
    with torch.device("meta"):
        put_stand_ins(stand_in, "nf4", torch.bfloat16, cuda=False)
    with memory._fake_tensors() as live:
        memory._materialise(stand_in)
        live.name_rest("weights")
        found = []
        for run in (forward, both):
            live.reset_peak()
            run(stand_in.layers[0])
            found.append(live.peak["activations"])
    assert min(real) > 1024 * 4096 * 2
    assert found == pytest.approx(real, rel=0.1)


def test_two_whole_steps_peak_where_the_estimate_says(model):
    """The estimate makes the states by a step with zero gradients; a whole first step changes nothing."""
    from acestep.train import memory
    from acestep.train.memory_step import FakeStep

    options, config = _options("--gradient_checkpointing"), Checkpoint(str(model)).transformer_config
    found = estimate(options, [400], [50], config)
    transformer = memory._without_memory(options, config, "no", True)
    with memory._fake_tensors() as live:
        memory._materialise(transformer)
        silence, null = torch.empty(1, 15_000, CHANNELS), torch.empty(1, 1, 64)
        step = FakeStep(transformer, silence, null, options, "no", [[(400, 50)]], live, True)
        step()
        step()
    assert sum(live.peak.values()) == pytest.approx(found.total, rel=1e-3)


def test_nothing_of_fake_tensors_is_left_behind(model, datasets, train_here, tmp_path):
    """Estimate, then train in the same process, with the same kinds of state and the same draws."""
    more = ("--quantization", "nf4", "--optimizer", "adamw8bit", "--max_train_steps", 1, "--evaluation_draws", 0)
    config, data = Checkpoint(str(model)).transformer_config, datasets[FRAMES // 2,]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate(_options(*more, "--lora_dropout", 0.1), [400], [50], config)
    assert torch.equal(torch.rand(1), expected)
    assert train_here(tmp_path / "out", *more, data=data)["skipped_steps"] == 0


def test_attention_scores_are_never_stored_and_native_masks_are(model):
    config = {**read_transformer_config(str(model / "transformer/config.json")), "num_hidden_layers": 2}
    ours, double, native = (
        estimate(_options("--attention", kind), [frames], [50], config).parts["activations"]
        for kind, frames in (("auto", 4000), ("auto", 8000), ("native", 8000))
    )
    assert double < 2.1 * ours  # linear in the length
    assert native - double > 4000 * 4000 * 4 / 2  # of the dense mask: the two peak at different places


def test_the_released_2b_model_has_the_size_that_its_parts_have():
    options = _options("--mixed_precision", "bf16", "--gradient_checkpointing")
    _, config = PRESETS["2b"]
    parts = estimate(options, [1500], [100], {**config, "num_hidden_layers": 2}).parts
    blocks = 2 * (4 * 2048 * 2048 + 4 * 2048 * 1024 + 3 * 2048 * 6144)  # query and output; key and value; the MLP
    assert parts["weights"] > 2 * blocks
    # A and B of eight layers a block: 2048 to 2048 (four) and 2048 to 1024 (four), rank 64, float32
    assert parts["adapter"] == 2 * 4 * 64 * ((2048 + 2048) + (2048 + 1024)) * 4
    assert parts["optimizer"] == pytest.approx(2 * parts["adapter"], rel=0.01)


def test_a_longer_song_a_larger_batch_and_a_higher_rank_need_more(model):
    config = {**Checkpoint(str(model)).transformer_config, "num_hidden_layers": 2}
    plain = estimate(_options(), [400, 400], [50, 50], config).total
    assert estimate(_options(), [800], [50], config).total > 1.3 * plain
    assert estimate(_options("--train_batch_size", 2), [400, 400], [50, 50], config).total > 1.3 * plain
    assert estimate(_options("--rank", 128), [400], [50], config).total > plain
    assert estimate(_options("--crop_seconds", 8), [400], [50], config).total < plain
    assert estimate(_options(), [400], [500], config).total > plain  # lyrics count too
    buckets = estimate(_options(), [400], [50], config, processes=2).parts
    assert buckets["buckets"] == buckets["adapter"]


def test_paged_states_are_left_out_and_said_so(model):
    config = {**Checkpoint(str(model)).transformer_config, "hidden_size": 2048, "num_hidden_layers": 1}
    found = {
        name: estimate(_options("--optimizer", name), [40], [9], config) for name in ("adamw8bit", "paged_adamw8bit")
    }
    assert found["paged_adamw8bit"].parts["optimizer"] < found["adamw8bit"].parts["optimizer"]
    assert "paged states" in found["paged_adamw8bit"].text()


def test_a_kind_that_does_not_run_on_four_bits_is_refused(model):
    with pytest.raises(UserError, match="lokr --quantization nf4"):
        estimate(_options("--adapter", "lokr", "--quantization", "nf4"), [40], [9], {})


def test_changes_save_what_the_estimates_differ_by(model):
    config = {**Checkpoint(str(model)).transformer_config, "num_hidden_layers": 2}
    options = _options("--train_batch_size", 2, "--mixed_precision", "bf16")
    saved = dict(savings(options, [3000, 3000], [50, 50], config))
    (checkpointing,) = (size for text, size in saved.items() if text.startswith("--gradient_checkpointing:"))
    with_it = dataclasses.replace(options, gradient_checkpointing=True)
    both = [estimate(each, [3000, 3000], [50, 50], config).total for each in (options, with_it)]
    assert checkpointing == both[0] - both[1]
    assert any(text.startswith("--train_batch_size 1 --gradient_accumulation_steps 2:") for text in saved)
    assert any(text.startswith("--crop_seconds 60:") for text in saved)
    assert list(saved.values()) == sorted(saved.values(), reverse=True)


def test_the_first_options_that_fit_are_found_in_order(model):
    config = {**Checkpoint(str(model)).transformer_config, "num_hidden_layers": 2}
    options = _options("--mixed_precision", "bf16")
    before = fit(options, 100 * GIB, [3000], [50], config)
    assert before.fits
    assert len(before.tried) == 1
    card = needed(before.estimate) - 1  # the first change must be enough
    found = fit(options, card, [3000], [50], config)
    assert [what for what, _, _ in found.tried] == ["as it is", "--gradient_checkpointing"]
    assert found.fits
    assert needed(found.estimate) <= card
    assert parse_options(TrainOptions, "", launch_line(found.options).replace("\\\n", "").split()[3:]) == found.options
    none = fit(options, 1000, [3000], [50], config)
    assert not none.fits
    assert [what for what, _, _ in none.tried] == [
        *("as it is", "--gradient_checkpointing", "--optimizer adamw8bit", "--quantization nf4"),
        *("--crop_seconds 90", "--crop_seconds 60", "--crop_seconds 45", "--crop_seconds 30"),
    ]
    assert none.options.crop_seconds == 30


@pytest.mark.parametrize(("text", "size"), [("8GB", 8 * GIB), ("7.5 GiB", 15 * GIB // 2), ("900m", 900 * 2**20)])
def test_sizes_of_cards(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["8", "GB", "-1GB", "nanGB", "8 apples", "0GB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(UserError, match="such as 8GB"):
        parse_size(text)


def test_a_card_too_small_is_warned_of():
    found = Estimate({"weights": 6 * GIB, "activations": GIB}, [6000], [700])
    assert "warning" not in beside_card(found, 10 * GIB, 12 * GIB)
    assert "10.00 GiB of them free" in beside_card(found, 10 * GIB, 12 * GIB)
    assert "warning: this may not fit" in beside_card(found, 7 * GIB, 12 * GIB)


def test_lengths_of_conditions_are_those_of_the_dataset(datasets, model):
    rows, _, _ = open_splits(_options("--dataset", datasets[FRAMES, FRAMES // 2].dataset))
    expected = [len(rows.tensor(index, "encoder_hidden_states")) for index in range(len(rows))]
    assert condition_lengths(rows) == expected
    text = advice(_options("--mixed_precision", "bf16"), rows, Checkpoint(str(model)), "bf16")
    assert "GiB less: --gradient_checkpointing" in text


def test_live_bytes_follow_the_graph_of_the_backward_pass():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), LiveBytes() as live:
        weight = torch.empty(1000, requires_grad=True)  # 4000 bytes: 8 blocks
        live.name([weight], "weights")
        kept = (weight * 2).exp()  # the graph keeps the result of exp, not its input
        assert live.live == {"weights": 4096, "activations": 4096}
        total = kept.sum()
        del kept
        assert live.live["activations"] == 4096 + 512
        total.backward()
        del total
        assert live.live["activations"] == 4096  # the gradient
        assert sum(live.peak.values()) >= 3 * 4096
