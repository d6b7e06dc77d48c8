"""Time one LoRA training step with our attention beside diffusers' own, in one run.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --size mini --seconds 60 240 600 --output benchmarks/results/train_step.json
    python benchmarks/train_step.py --size 2b --dtype bfloat16 --gradient_checkpointing --device cuda
    python benchmarks/train_step.py --size xl --dtype bfloat16 --quantization nf4 --gradient_checkpointing --compile
    python benchmarks/train_step.py --attention_only

A step is the trainer's: the loss of one song with a condition of 700 tokens (random weights, random latents), backward
pass, clipping, AdamW over a rank-64 adapter on the attention layers. The implementations take turns on the same model;
`seconds` is the median of each, `ratio` the median of ours by native's of the same turn. `--attention_only` times the
sliding layers' attention alone, without projections.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from measuring import count_operations, machine, matrix_ceiling, peak_memory, synchronize
from step_cases import SIZES, empty_transformer, make_batch, make_step, make_transformer

from acestep.dataset.schema import FRAMES_PER_SECOND
from acestep.models.attention import install_attention
from acestep.models.attention_blocks import attend, sliding_attention
from acestep.models.compiling import compile_layers

NATIVE = "native"


def take_turns(
    runs: dict[str, Callable[[], Any]], repeats: int, device: torch.device, beside: str = NATIVE
) -> dict[str, Any]:
    """Run each `repeats` times in turns whose order alternates, after one turn that is not counted.

    Returns:
        For each the median `seconds`; on the CPU `processor_seconds`, those of all threads, which other programs on
        the machine disturb less; every turn's in `all`; and medians of the ratios to `beside` of the same turn.
    """
    clocks = {"seconds": time.perf_counter} | (
        {} if device.type == "cuda" else {"processor_seconds": time.process_time}
    )
    taken: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in clocks} for name in runs}
    for turn in range(repeats + 1):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            synchronize(device)
            began = {clock: read() for clock, read in clocks.items()}
            runs[name]()
            synchronize(device)
            for clock, read in clocks.items():
                if turn:
                    taken[name][clock].append(round(read() - began[clock], 5))
    found: dict[str, Any] = {}
    for name, times in taken.items():
        found[name] = {clock: round(statistics.median(values), 5) for clock, values in times.items()} | {"all": times}
        for clock, values in times.items():
            if name != beside and beside in taken:
                ratios = [this / other for this, other in zip(values, taken[beside][clock], strict=True)]
                found[name][clock.replace("seconds", "ratio")] = round(statistics.median(ratios), 3)
    return found


def measure_steps(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """One entry a length."""
    transformer, trainable = make_transformer(options.size, dtype, options.quantization, device, options.rank)
    if options.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    step = make_step(transformer, trainable, dtype)
    ceiling = matrix_ceiling(device, dtype) if device.type == "cuda" else None
    batches = {seconds: make_batch(transformer, seconds, device) for seconds in options.seconds}

    def run(implementation: str, seconds: float) -> None:
        install_attention(transformer, options.attention if implementation == "ours" else NATIVE)
        step(batches[seconds])

    # A compiled layer's operations are not seen one by one: they are counted before.
    operations = {
        (name, seconds): count_operations(lambda name=name, seconds=seconds: run(name, seconds))
        for name in options.implementation
        for seconds in options.seconds
    }
    if options.compile:
        compile_layers(transformer)
    entries = []
    for seconds in options.seconds:
        runs = {name: lambda name=name, seconds=seconds: run(name, seconds) for name in options.implementation}
        entry = {"audio_seconds": seconds, **take_turns(runs, options.repeats, device)}
        for name, once in runs.items():
            with peak_memory(device) as memory:
                once()
            found, flops = entry[name], operations[name, seconds]
            found["audio_seconds_a_second"] = round(seconds / found["seconds"], 2)
            found["memory_mib"] = {key: value and round(value, 1) for key, value in memory.items()}
            found["operations"] = flops
            found["operations_a_second"] = round(flops / found["seconds"])
            if ceiling:
                found["share_of_ceiling"] = round(flops / found["seconds"] / ceiling, 3)
        print(json.dumps({key: _short(value) for key, value in entry.items()}), flush=True)
        entries.append(entry)
    return entries


def measure_attention(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The sliding layers' attention, forward and backward, and its growth from the first length to the last."""
    config = empty_transformer(options.size).config
    window, scale = config.sliding_window, config.head_dim**-0.5
    attentions: dict[str, dict[float, Callable[[], Any]]] = {name: {} for name in options.implementation}
    for seconds in options.seconds:
        tokens = -(-round(seconds * FRAMES_PER_SECOND) // config.patch_size)
        heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        inputs = [
            torch.randn(1, tokens, count, config.head_dim, device=device, dtype=dtype, requires_grad=True)
            for count in heads
        ]
        gradient, position = torch.randn_like(inputs[0]).flatten(2), torch.arange(tokens, device=device)
        dense = ((position[:, None] - position).abs() <= window)[None, None]

        def native(inputs: list = inputs, dense: torch.Tensor = dense, gradient: torch.Tensor = gradient) -> None:
            attend(*inputs, dense, scale, 0.0).flatten(2).backward(gradient)

        def ours(inputs: list = inputs, gradient: torch.Tensor = gradient) -> None:
            sliding_attention(*inputs, window, scale).flatten(2).backward(gradient)

        for name in options.implementation:
            attentions[name][seconds] = native if name == NATIVE else ours
    entries, growth = [], {}
    for seconds in options.seconds:
        runs = {name: lengths[seconds] for name, lengths in attentions.items()}
        entries.append({"audio_seconds": seconds, **take_turns(runs, options.repeats, device)})
        print(json.dumps({key: _short(value) for key, value in entries[-1].items()}), flush=True)
    first, last = f"{options.seconds[0]:g} s", f"{options.seconds[-1]:g} s"
    for name, lengths in attentions.items():  # both lengths in turns, under the same load
        runs = {first: lengths[options.seconds[0]], last: lengths[options.seconds[-1]]}
        turns = take_turns(runs, options.repeats, device, beside=first)
        growth[name] = {key: value for key, value in turns[last].items() if "ratio" in key}
        print(f"{name}, from {first} to {last}: {growth[name]}", flush=True)
    return {"lengths": entries, "growth": growth}


def _short(value: Any) -> Any:
    return {key: number for key, number in value.items() if key != "all"} if isinstance(value, dict) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--implementation", nargs="+", choices=(NATIVE, "ours"), default=[NATIVE, "ours"])
    parser.add_argument("--attention", choices=("auto", "blockwise", "flex"), default="auto", help="which one is ours")
    parser.add_argument("--size", choices=tuple(SIZES), default="mini", help="of the transformer")
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 240.0, 600.0], help="of audio")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--quantization", choices=("none", "int8", "nf4"), default="none")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="compile the layers")
    parser.add_argument("--rank", type=int, default=64, help="of the adapter")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are counted")
    parser.add_argument("--threads", type=int, help="on the CPU; all cores by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--attention_only", action="store_true", help="only the sliding layers' attention")
    parser.add_argument("--output", type=Path, help="write the result there as JSON, beside those of other options")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    record = {
        "date": date.today().isoformat(),
        **machine(device),
        "load_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "options": {key: value for key, value in vars(options).items() if key not in ("output", "threads")},
    }
    if options.attention_only:
        record["sliding_attention"] = measure_attention(options, device, dtype)
    else:
        record["steps"] = measure_steps(options, device, dtype)
    record["load_after"] = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    if options.output:
        write(options.output, record)


def write(path: Path, record: dict[str, Any]) -> None:
    """Put the record in the file's list, in the place of the one with the same options on the same hardware."""
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    same = ("hardware", "options")
    records = [other for other in records if any(other[key] != record[key] for key in same)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*records, record], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
