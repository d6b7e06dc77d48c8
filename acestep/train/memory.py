"""How much memory a run will need, known without a GPU and without the model's weights.

    estimated = estimate(options, lengths=[6000], condition_lengths=[700], transformer_config=config)
    print(estimated.text())

The real step runs (adapter, attention, loss, backward pass, clipping, optimizer) on fake tensors, which have shapes and
no data, on the CPU's operations; `LiveBytes` counts what lives. See docs/memory.md for what that leaves out.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from acestep.dataset.schema import FRAMES_PER_SECOND
from acestep.models.attention import install_attention
from acestep.train.adapter import put_adapter
from acestep.train.averaging import AveragedWeights
from acestep.train.batches import StepLayout, collate, crop_frames_of
from acestep.train.memory_counting import ACTIVATIONS, LiveBytes
from acestep.train.memory_quantized import StoredQuantized, operations_inside, prepare_maps, put_stand_ins
from acestep.train.optimizer_state import trainable
from acestep.train.optimizers import make_optimizer, make_schedule
from acestep.train.options import TrainOptions
from acestep.train.setup import DTYPES, autocast, make_velocity_loss, new_adapter_config
from acestep.train.stepping import Stepper
from acestep.train.targets import Patterns, read_patterns

GIB = 2**30
CPU = torch.device("cpu")
SILENCE_FRAMES = 15_000
PARTS = {
    "weights": "the frozen model",
    "adapter": "its weights in float32",
    "gradients": "of the adapter",
    "optimizer": "its states",
    "average": "the adapter's mean (--ema_decay)",
    "buckets": "gradients of the processes, on their way",
    ACTIVATIONS: "what a step holds, its batch included",
}


@dataclass(frozen=True)
class Estimate:
    """The most memory that a step holds at once.

    Attributes:
        parts: bytes at that moment, by the names of `PARTS`.
        frames, condition_tokens: of the songs of the largest batch.
        notes: what is not as the options say, or not counted.
    """

    parts: dict[str, int]
    frames: list[int]
    condition_tokens: list[int]
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def text(self) -> str:
        """A table in GiB."""
        lines = [f"{name:<12}{size / GIB:8.2f} GiB  {PARTS[name]}" for name, size in self.parts.items()]
        songs = " and ".join(
            f"{frames / FRAMES_PER_SECOND:.0f} s with {tokens} condition tokens"
            for frames, tokens in zip(self.frames, self.condition_tokens, strict=True)
        )
        lines.append(f"{'total':<12}{self.total / GIB:8.2f} GiB  at the peak of a step on {songs}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def estimate(
    options: TrainOptions,
    lengths: Sequence[int],
    condition_lengths: Sequence[int],
    transformer_config: dict[str, Any],
    *,
    precision: str | None = None,
    device: str = "cuda",
    processes: int = 1,
) -> Estimate:
    """The peak of one process's memory in the step that takes the longest songs with the longest conditions.

    Whether or not these are the same songs: the largest a batch can be. The global random state is left as it was.

    Args:
        lengths: frames of each song; `--crop_seconds` is taken into account.
        condition_lengths: tokens of each song's condition.
        transformer_config: of `AceStepTransformer1DModel`, such as `Checkpoint.transformer_config`.
        precision: "no", "bf16" or "fp16"; None: as the options say.
        device: "cuda" or "cpu", where the run is to be.
        processes: of the run, each with the whole model.

    Raises:
        UserError: for options that do not fit the model.
    """
    precision = precision or options.mixed_precision or "no"
    cuda, notes = device == "cuda", _notes(options)
    batch = largest_batches(options, lengths, condition_lengths, processes)
    transformer = _without_memory(options, transformer_config, precision, cuda)
    with _fake_tensors() as live:
        _materialise(transformer, precision)
        silence = torch.empty(1, SILENCE_FRAMES, transformer.config.audio_acoustic_hidden_dim)
        null_condition = torch.empty(1, 1, _condition_width(transformer))
        step = FakeStep(transformer, silence, null_condition, options, precision, batch, live, cuda)
        step.make_states()
        step()
        step.close()
    parts = dict(live.peak)
    if processes > 1:
        parts["buckets"] = parts["adapter"]  # of DDP: the gradients once more
    chosen = [song for songs in batch for song in songs]
    songs = dict.fromkeys(chosen[: options.train_batch_size])
    return Estimate(
        {name: parts[name] for name in PARTS if parts.get(name)}, [f for f, _ in songs], [c for _, c in songs], notes
    )


def largest_batches(
    options: TrainOptions, lengths: Sequence[int], condition_lengths: Sequence[int], processes: int = 1
) -> list[list[tuple[int, int]]]:
    """Frames and condition tokens of the songs in one process's micro-batches of the run's first step.

    Of an accumulated step there are two: from the second one on there are gradients while activations grow.
    """
    crop = crop_frames_of(options.crop_seconds)
    frames = sorted((min(length, crop or length) for length in lengths), reverse=True)[::processes]
    songs = list(zip(frames, sorted(condition_lengths, reverse=True), strict=False))
    size = options.train_batch_size
    return [songs[begin : begin + size] for begin in (0, size)[: options.gradient_accumulation_steps] if songs[begin:]]


class FakeStep:
    """The trainer's step, put together from its own parts as `make_trainer` does it.

    Args:
        transformer: with the adapter, on the CPU.
        batch: see `largest_batches`.
        live: what counts.
        cuda: whether the optimizer works on all weights at once, as PyTorch has it on a GPU.
    """

    def __init__(
        self,
        transformer: nn.Module,
        silence: torch.Tensor,
        null_condition: torch.Tensor,
        options: TrainOptions,
        precision: str,
        batch: list[list[tuple[int, int]]],
        live: LiveBytes,
        cuda: bool,
    ):
        self.live, self.options, self.batch, self.cuda = live, options, batch, cuda
        self.width = _condition_width(transformer)
        self.channels = transformer.config.audio_acoustic_hidden_dim
        attention = "blockwise" if options.attention == "flex" else options.attention
        masks = install_attention(transformer, attention) != "native"
        if options.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        entered = autocast(CPU, precision)
        velocity_loss = make_velocity_loss(transformer, silence, null_condition, options, entered, masks)
        named = trainable(transformer)
        self.parameters = [parameter for _, parameter in named]
        live.name_rest("weights")
        live.name(self.parameters, "adapter")
        self.hooks = [
            parameter.register_post_accumulate_grad_hook(lambda p: live.name([p.grad], "gradients"))
            for parameter in self.parameters
        ]
        self.optimizer = make_optimizer(named, options)
        if cuda and isinstance(self.optimizer, torch.optim.AdamW):
            for group in self.optimizer.param_groups:
                group["foreach"] = True
        self.average = AveragedWeights(named, options.ema_decay) if options.ema_decay else None
        if self.average:
            live.name(self.average.tensors().values(), "average")
        layout = StepLayout(options.train_batch_size, len(batch))
        self.rows = sum(map(len, batch))
        schedule = make_schedule(self.optimizer, options, steps=100)
        accelerator = OneProcess(foreach=cuda)
        self.stepper = Stepper(
            accelerator,
            velocity_loss,
            self.optimizer,
            schedule,
            self.parameters,
            layout,
            self.rows,
            options.max_grad_norm,
        )
        transformer.train()

    def make_states(self) -> None:
        """An optimizer's step with gradients of zero: the states that are there when the next step peaks."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.live.name([parameter.grad for parameter in self.parameters], "gradients")
        self.optimizer.step()
        self.optimizer.zero_grad()
        for parameter in self.parameters:
            states = [value for value in self.optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
            self.live.name(states, "optimizer")
            if self.cuda and self.options.optimizer.startswith("paged") and parameter.numel() >= 1e5:
                # bitsandbytes' own rule; they lie in memory that the driver moves to the host when the GPU's is short
                self.live.name([state for state in states if state.numel() == parameter.numel()], None)
        self.live.reset_peak()

    def __call__(self) -> None:
        """One step of the optimizer."""
        self.stepper(0, self._micro_batches(), [False])
        if self.average:
            self.average.step()

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _micro_batches(self) -> Iterator[dict]:
        for songs in self.batch:
            longest = max(frames for frames, _ in songs)
            yield collate([self._sample(frames, tokens, longest) for frames, tokens in songs])

    def _sample(self, frames: int, tokens: int, padded: int) -> dict:
        """As `TrainingSamples` has them, without content."""
        return {
            **{"id": "", "file_name": "", "epoch": 0, "weight": 1.0, "start": 0, "padded": padded},
            **{"timestep": 0.5, "null_condition": False},
            "clean_latents": torch.empty(frames, self.channels),
            "noise": torch.empty(frames, self.channels),
            "encoder_hidden_states": torch.empty(tokens, self.width),
        }


class OneProcess:
    """What `Stepper` asks of accelerate, for one process alone."""

    num_processes = 1
    device = CPU

    def __init__(self, foreach: bool):
        self.foreach = foreach

    def no_sync(self, _model: nn.Module) -> AbstractContextManager:
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def clip_grad_norm_(self, parameters: list[nn.Parameter], norm: float) -> torch.Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, norm, foreach=self.foreach or None)


def _without_memory(options: TrainOptions, config: dict[str, Any], precision: str, cuda: bool) -> nn.Module:
    """The transformer with its adapter on the meta device, layers to be quantized by their stand-ins."""
    from diffusers import AceStepTransformer1DModel

    with torch.device("meta"):
        transformer = AceStepTransformer1DModel.from_config(config)
        nn.Module.to(transformer, DTYPES[precision])  # without diffusers' warning
        if options.quantization != "none":
            compute = torch.float16 if precision == "fp16" else torch.bfloat16
            put_stand_ins(transformer, options.quantization, compute, cuda)
        if options.init_lora:
            from acestep.adapters.reading import read_adapter

            adapter = read_adapter(options.init_lora).peft_config()
        else:
            patterns = Patterns()
            if options.rank_pattern_file:
                patterns = read_patterns(options.rank_pattern_file, default_alpha=options.lora_alpha is None)
            # other starts have other numbers in the same places
            adapter = new_adapter_config(transformer, options, patterns, "default")
        put_adapter(transformer, adapter, options.seed)
    return transformer


def _materialise(transformer: nn.Module, precision: str) -> None:
    """Give every parameter and buffer on the meta device a fake storage, then quantize."""
    for module in transformer.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
                    tensors[name] = fake
        if isinstance(module, StoredQuantized):
            module.store()


@contextmanager
def _fake_tensors() -> Iterator[LiveBytes]:
    """Within it, new tensors have no data, and what lives is counted."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    prepare_maps()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as bitsandbytes' about paged states on a CPU
        with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes(operations_inside()) as live:
            yield live


def _condition_width(transformer: nn.Module) -> int:
    return transformer.config.encoder_hidden_size or transformer.config.hidden_size


def _notes(options: TrainOptions) -> list[str]:
    notes = []
    if options.attention == "flex":
        notes.append("estimated with --attention blockwise; FlexAttention runs only on a GPU.")
    if options.compile:
        notes.append("estimated without --compile.")
    if options.optimizer.startswith("paged"):
        notes.append("paged states of the optimizer are not counted: they leave the GPU when it is short of memory.")
    if options.preview_prompts:
        notes.append("previews are not counted: the VAE decodes them between steps.")
    return notes
