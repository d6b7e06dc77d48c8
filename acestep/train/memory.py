"""How much memory a run will need, known without a GPU and without the model's weights.

    estimated = estimate(options, lengths=[6000], condition_lengths=[700], transformer_config=config)
    print(estimated.text())

The real step runs (adapter, attention, loss, backward pass, clipping, optimizer) on fake tensors, which have shapes and
no data, on the CPU's operations; `LiveBytes` counts what lives. See docs/memory.md for what that leaves out.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from acestep.dataset.schema import FRAMES_PER_SECOND
from acestep.errors import UserError
from acestep.train.adapter import put_adapter
from acestep.train.batches import crop_frames_of
from acestep.train.memory_counting import ACTIVATIONS, LiveBytes
from acestep.train.memory_quantized import StoredQuantized, operations_inside, prepare_maps, put_stand_ins
from acestep.train.memory_step import FakeStep, condition_width
from acestep.train.options import TrainOptions
from acestep.train.setup import DTYPES, new_adapter_config
from acestep.train.targets import Patterns, read_patterns

GIB = 2**30
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

    def as_dict(self) -> dict[str, Any]:
        """For JSON; sizes in bytes."""
        return {
            "total": self.total,
            "parts": self.parts,
            "seconds": [frames / FRAMES_PER_SECOND for frames in self.frames],
            "condition_tokens": self.condition_tokens,
            "notes": self.notes,
        }

    def text(self) -> str:
        """A table in GiB."""
        lines = [f"{name:<12}{size / GIB:8.2f} GiB  {PARTS[name]}" for name, size in self.parts.items()]
        songs = " and ".join(
            f"{f'{count} x ' if count > 1 else ''}{frames / FRAMES_PER_SECOND:g} s (condition {tokens} tokens)"
            for (frames, tokens), count in Counter(zip(self.frames, self.condition_tokens, strict=True)).items()
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
    if options.adapter in ("lokr", "loha") and options.quantization == "nf4":
        raise UserError(
            f"--adapter {options.adapter} --quantization nf4: PEFT (0.21) cannot put this adapter on layers of 4 bits. "
            "Use --quantization int8, or --adapter lora."
        )
    precision = precision or options.mixed_precision or "no"
    cuda, notes = device == "cuda", _notes(options)
    batch = largest_batches(options, lengths, condition_lengths, processes)
    transformer = _without_memory(options, transformer_config, precision, cuda)
    with _fake_tensors() as live:
        _materialise(transformer)
        silence = torch.empty(1, SILENCE_FRAMES, transformer.config.audio_acoustic_hidden_dim)
        null_condition = torch.empty(1, 1, condition_width(transformer))
        step = FakeStep(transformer, silence, null_condition, options, precision, batch, live, cuda)
        step.make_states()
        step()
        step.close()
    parts = dict(live.peak)
    if processes > 1:
        parts["buckets"] = parts["adapter"]  # of DDP: the gradients once more
    frames, tokens = map(list, zip(*batch[0], strict=True))
    return Estimate({name: parts[name] for name in PARTS if parts.get(name)}, frames, tokens, notes)


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


def _materialise(transformer: nn.Module) -> None:
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
