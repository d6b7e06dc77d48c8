"""What a step of the trainer costs beside the model: batches, draws, copies, clipping's bookkeeping, metrics.

    python benchmarks/step_overhead.py --output benchmarks/results/step_overhead.json

The real `Stepper` makes steps of a `mini` transformer with random weights on an encoded dataset of songs of one length,
with a loader of the given workers. The model's own time is that of the bare parts on the same batch: loss, backward
pass, norm, optimizer. Both alternate in one run; the difference of the medians is the overhead. On a GPU the bare step
is waited for, so the overhead is what the GPU would idle.
"""

import argparse
import datetime
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from step_cases import CHANNELS, CONDITION_TOKENS, make_transformer
from torch.utils.data import DataLoader, Dataset

from acestep.train.batches import MicroBatches, Place, StepLayout, collate
from acestep.train.draws import Draws
from acestep.train.evaluation import to_device
from acestep.train.flow_matching import draw_timestep
from acestep.train.step import VelocityLoss
from acestep.train.stepping import Stepper


class StoredSongs(Dataset):
    """Samples as `TrainingSamples` makes them, from float16 arrays on the disk."""

    def __init__(self, folder: Path, songs: int, frames: int, width: int):
        self.latents = np.lib.format.open_memmap(folder / "latents.npy", "w+", "float16", (songs, frames, CHANNELS))
        self.conditions = np.lib.format.open_memmap(folder / "c.npy", "w+", "float16", (songs, CONDITION_TOKENS, width))

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, place: Place) -> dict:
        draws = Draws(0, place.epoch, str(place.index))
        latents = torch.from_numpy(self.latents[place.index].astype(np.float32))
        return {
            "id": str(place.index),
            "file_name": str(place.index),
            "epoch": place.epoch,
            "weight": place.weight,
            "start": 0,
            "padded": place.padded,
            "clean_latents": latents,
            "noise": draws.normal("noise", *latents.shape),
            "timestep": draw_timestep(draws, "logit_normal_max"),
            "encoder_hidden_states": torch.from_numpy(self.conditions[place.index].astype(np.float32)),
            "null_condition": False,
        }


class NoProcesses:
    """What a stepper asks of accelerate, for one process."""

    num_processes = 1

    def __init__(self, device: torch.device):
        self.device = device

    def no_sync(self, _model: torch.nn.Module):
        from contextlib import nullcontext

        return nullcontext()

    def reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: list, norm: float) -> torch.Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, norm)


def measure(seconds: float, repeats: int, workers: int, device: torch.device, size: str) -> dict:
    """Medians of a trainer's step and of the model's own part of it."""
    frames = round(seconds * 25)
    transformer, trainable = make_transformer(size, torch.float32, "none", device, 64)
    silence = torch.randn(1, 15_000, CHANNELS, device=device)
    width = transformer.config.encoder_hidden_size or transformer.config.hidden_size
    loss = VelocityLoss(transformer, silence, torch.zeros(1, 1, width, device=device), masks=True)
    optimizer = torch.optim.AdamW(trainable, lr=1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    layout = StepLayout(1, 1)

    def bare(batch: dict) -> None:
        loss(batch, [0]).sum().backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    with tempfile.TemporaryDirectory() as folder:
        songs = StoredSongs(Path(folder), 4, frames, width)
        batches = MicroBatches([frames] * 4, layout, 0, seed=0, steps=repeats + 1)
        loader = iter(DataLoader(songs, batch_sampler=batches, num_workers=workers, collate_fn=collate))
        stepper = Stepper(NoProcesses(device), loss, optimizer, schedule, trainable, layout, 4, 1.0)
        fixed = to_device(collate([songs[Place(0, 0, padded=frames)]]), device)
        whole, model = [], []
        for step in range(repeats + 1):
            began = time.perf_counter()
            stepper(step, loader, [False, False])
            middle = time.perf_counter()
            bare(fixed)
            whole.append(middle - began)
            model.append(time.perf_counter() - middle)
    step, own = statistics.median(whole[1:]), statistics.median(model[1:])  # the first one warms up
    return {
        "audio_seconds": seconds,
        "step_seconds": round(step, 4),
        "model_seconds": round(own, 4),
        "overhead": round(step / own - 1, 4),
        "all": {"step": [round(t, 4) for t in whole[1:]], "model": [round(t, 4) for t in model[1:]]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[60, 240])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    from measuring import machine

    device = torch.device(options.device)
    result = machine(device) | {
        "date": datetime.date.today().isoformat(),
        "size": options.size,
        "workers": options.workers,
        "steps": [
            measure(seconds, options.repeats, options.workers, device, options.size) for seconds in options.seconds
        ],
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
