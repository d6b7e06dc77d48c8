"""Compare the estimate of a step's peak memory with the real one, in one run.

    python benchmarks/memory.py --device cuda --output benchmarks/results/memory.json
    python benchmarks/memory.py --device cuda --size xl --quantization nf4 --seconds 60 240 600
    python benchmarks/memory.py --device cpu --size mini --seconds 30 60

The real steps are the trainer's on random weights and latents, two for each case. On a GPU the peak is
`torch.cuda.max_memory_allocated`, beside it `max_memory_reserved` (what fragmentation adds) and what the driver says is
taken besides (CUDA's context). On a CPU it is the running sum of what the allocator reports to the profiler.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from measuring import machine

from acestep.dataset.schema import FRAMES_PER_SECOND
from acestep.models.attention import install_attention
from acestep.models.quantization import quantize
from acestep.train.adapter import put_adapter
from acestep.train.batches import StepLayout, collate
from acestep.train.memory import estimate
from acestep.train.memory_inputs import PRESETS
from acestep.train.optimizer_state import trainable
from acestep.train.optimizers import make_optimizer, make_schedule
from acestep.train.options import OPTIMIZERS, TrainOptions
from acestep.train.setup import DTYPES, autocast, make_velocity_loss, new_adapter_config
from acestep.train.stepping import Stepper
from acestep.train.targets import Patterns

CHANNELS, TOKENS, STEPS = 64, 700, 2
MINI = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 4}
SIZES = {"mini": {**MINI, "num_key_value_heads": 2}, **{name: config for name, (_, config) in PRESETS.items()}}


def real_steps(options: TrainOptions, config: dict[str, Any], frames: int, device: torch.device) -> None:
    """Two steps of the trainer with random weights; nothing of them is left at the end."""
    from accelerate import Accelerator
    from diffusers import AceStepTransformer1DModel

    precision = options.mixed_precision or "no"
    with torch.device("meta"):
        transformer = AceStepTransformer1DModel(**config)
    torch.nn.Module.to(transformer, DTYPES[precision])
    quantized = options.quantization != "none"
    # as the trainer has it: quantized layer by layer on the way to the GPU
    transformer.to_empty(device="cpu" if quantized else device)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_(std=0.02)
    if quantized:
        quantize(transformer, options.quantization, torch.bfloat16, device)
    masks = install_attention(transformer, options.attention) != "native"
    put_adapter(transformer, new_adapter_config(transformer, options, Patterns(), "default"), options.seed)
    transformer.to(device).train()
    if options.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    width = config.get("encoder_hidden_size") or transformer.config.hidden_size
    silence, null = torch.zeros(1, 15_000, CHANNELS, device=device), torch.zeros(1, 1, width, device=device)
    loss = make_velocity_loss(transformer, silence, null, options, autocast(device, precision), masks)
    optimizer = make_optimizer(trainable(transformer), options)
    sample = {
        **{"id": "", "file_name": "", "epoch": 0, "weight": 1.0, "start": 0, "padded": frames},
        **{"timestep": 0.5, "null_condition": False, "encoder_hidden_states": torch.randn(TOKENS, width)},
        **{"clean_latents": torch.randn(frames, CHANNELS), "noise": torch.randn(frames, CHANNELS)},
    }
    stepper = Stepper(
        Accelerator(cpu=device.type == "cpu"),
        *(loss, optimizer, make_schedule(optimizer, options, 100)),
        [parameter for _, parameter in trainable(transformer)],
        *(StepLayout(1, 1), 1, options.max_grad_norm),
    )
    for _ in range(STEPS):
        stepper(0, iter([collate([sample])]), [False])


def cuda_peak(run: Callable[[], None], device: torch.device) -> dict[str, int]:
    """Bytes by torch's allocator, and what the driver counts beside it."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "real": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.max_memory_reserved(device),
        "beside_the_allocator": total - free - torch.cuda.memory_reserved(device),
    }


def cpu_peak(run: Callable[[], None]) -> dict[str, int]:
    """Bytes that the CPU's allocator handed out at once, as it tells the profiler."""
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return {"real": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="2b", help="of the transformer")
    parser.add_argument("--seconds", nargs="+", type=float, default=[60.0, 240.0], help="of audio")
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--quantization", nargs="+", choices=("none", "int8", "nf4"), default=["none", "nf4"])
    parser.add_argument("--optimizer", nargs="+", choices=OPTIMIZERS, default=["adamw"])
    parser.add_argument("--checkpointing", nargs="+", choices=("on", "off"), default=["on", "off"])
    parser.add_argument("--rank", type=int, default=64, help="of the adapter")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    given = parser.parse_args()
    device, config, cases = torch.device(given.device), SIZES[given.size], []
    every = [
        (quantization, optimizer, checkpointing, seconds)
        for quantization in given.quantization
        for optimizer in given.optimizer
        for checkpointing in given.checkpointing
        for seconds in given.seconds
    ]
    for quantization, optimizer, checkpointing, seconds in every:
        options = TrainOptions(
            **{"dataset": "", "pretrained_model_name_or_path": "", "output_dir": "", "rank": given.rank},
            **{"quantization": quantization, "optimizer": optimizer, "mixed_precision": given.precision},
            gradient_checkpointing=checkpointing == "on",
        )
        frames = round(seconds * FRAMES_PER_SECOND)
        began = time.monotonic()
        found = estimate(options, [frames], [TOKENS], config, device=device.type)
        entry = {"quantization": quantization, "optimizer": optimizer, "checkpointing": checkpointing}
        entry |= {"audio_seconds": seconds, "estimate": found.total, "estimate_seconds": time.monotonic() - began}

        def run(options: TrainOptions = options, frames: int = frames) -> None:
            real_steps(options, config, frames, device)

        try:
            entry |= cuda_peak(run, device) if device.type == "cuda" else cpu_peak(run)
            entry["ratio"] = round(found.total / entry["real"], 3)
        except torch.OutOfMemoryError as error:
            entry["out_of_memory"] = str(error).splitlines()[0]
        entry["estimate_seconds"] = round(entry["estimate_seconds"], 1)
        print(json.dumps(entry), flush=True)
        cases.append(entry)
    if given.output:
        record = {"date": date.today().isoformat(), **machine(device), "size": given.size, "cases": cases}
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
