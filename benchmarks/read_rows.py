"""Time reading an encoded dataset beside torch.load of the same tensors in .pt files.

    python benchmarks/read_rows.py
    python benchmarks/read_rows.py --rows 20 --repeats 50 --output benchmarks/results/read_rows.json

The rows have the released models' shapes: 64 latent channels, conditions `[700, 2048]`, float16. Read are the latents
and the condition of a three-minute song, as float32 tensors, and a 60-second crop of a ten-minute song. Files are in
the system's cache: what is compared is the work, not the disk. One thread
reads, as in a loader's worker.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from datasets import load_from_disk

from acestep.dataset.assemble import write_dataset
from acestep.dataset.row import song_prompts, song_row
from acestep.dataset.rows import EncodedRows
from acestep.dataset.schema import FRAMES_PER_SECOND, ModelRecord
from acestep.dataset.store import TensorStore
from acestep.songs import Song

CHANNELS, CONDITION_SIZE, TOKENS = 64, 2048, 700
CROP = 60 * FRAMES_PER_SECOND


def make(folder: Path, rows: int, seconds: float) -> EncodedRows:
    """A dataset of random tensors, and `0.pt`, `1.pt` ... with the same ones beside it."""
    draw, frames = np.random.default_rng(0), round(seconds * FRAMES_PER_SECOND)
    record = ModelRecord(model="benchmark", revision=None, vae="", text_encoder="", condition_encoder="")

    def encoded():
        for number in range(rows):
            values = {"id": f"{number:032x}", "duration": seconds, "sample_rate": 48_000, "channels": 2, "caption": "a"}
            song = Song(file_name=f"{number}.wav", path=Path(f"{number}.wav"), **values)
            mean, std = (draw.standard_normal((frames, CHANNELS), dtype=np.float32) for _ in range(2))
            condition = draw.standard_normal((TOKENS, CONDITION_SIZE), dtype=np.float32)
            tensors = {"latents": mean, "latents_std": std, "encoder_hidden_states": condition}
            torch.save({k: torch.from_numpy(v).half() for k, v in tensors.items()}, folder / f"{number}.pt")
            yield song_row(song, song_prompts(song), {"caption": condition}, mean, std)

    write_dataset(encoded, folder / "data", record, channels=CHANNELS, condition_size=CONDITION_SIZE)
    return EncodedRows(load_from_disk(str(folder / "data")))


def milliseconds(read: Callable[[int], object], rows: int, repeats: int) -> dict[str, float]:
    """Median and 95th percentile of one read, over `repeats` times all rows, and the median of its CPU time.

    On a machine with other work the clock counts that too; the processor's time does not.
    """
    for row in range(rows):
        read(row)
    taken, computed = [], []
    for _ in range(repeats):
        for row in range(rows):
            began, began_cpu = time.perf_counter(), time.thread_time()
            read(row)
            computed.append((time.thread_time() - began_cpu) * 1e3)
            taken.append((time.perf_counter() - began) * 1e3)
    found = {"median": statistics.median(taken), "p95": np.percentile(taken, 95), "cpu": statistics.median(computed)}
    return {name: round(float(value), 4) for name, value in found.items()}


def measure(rows: int, repeats: int) -> dict[str, object]:
    """Bytes of a row, and milliseconds of each way to read."""
    with tempfile.TemporaryDirectory() as folder:
        songs, long = Path(folder, "songs"), Path(folder, "long")
        for path, seconds in ((songs, 180.0), (long, 600.0)):
            path.mkdir()
            made = make(path, rows, seconds)
            if path == songs:
                three = made
        ten, crop = made, slice(1000, 1000 + CROP)

        def row_of_dataset(row: int) -> object:
            return three.texts(row), three.tensor(row, "latents"), three.tensor(row, "encoder_hidden_states")

        def row_of_pt(row: int) -> object:
            tensors = torch.load(songs / f"{row}.pt", weights_only=True)
            return tensors["latents"].float(), tensors["encoder_hidden_states"].float()

        def row_of_mapped_pt(row: int) -> object:
            tensors = torch.load(songs / f"{row}.pt", weights_only=True, mmap=True)
            return tensors["latents"].float(), tensors["encoder_hidden_states"].float()

        def crop_of_dataset(row: int) -> object:
            return ten.tensor(row, "latents", crop.start, crop.stop)

        def crop_of_pt(row: int) -> object:
            return torch.load(long / f"{row}.pt", weights_only=True)["latents"][crop].float()

        def crop_of_mapped_pt(row: int) -> object:
            return torch.load(long / f"{row}.pt", weights_only=True, mmap=True)["latents"][crop].float()

        assert torch.equal(crop_of_dataset(0), crop_of_pt(0))
        sizes = measure_sizes(three, songs, rows)
        sizes["write_from_cache_cpu_seconds_a_row"] = measure_writing(Path(folder), rows)
        ways = (row_of_dataset, row_of_pt, row_of_mapped_pt, crop_of_dataset, crop_of_pt, crop_of_mapped_pt)
        return sizes | {"milliseconds": {way.__name__: milliseconds(way, rows, repeats) for way in ways}}


def measure_sizes(dataset: EncodedRows, folder: Path, rows: int) -> dict[str, object]:
    """Bytes of a three-minute song as Arrow, as a Parquet row of its own and as .pt, and the CPU time of Parquet."""
    import pyarrow.parquet

    arrow = sum(path.stat().st_size for path in (folder / "data").glob("*.arrow"))
    began = time.process_time()
    dataset.dataset.to_parquet(folder / "rows.parquet", batch_size=1)
    seconds = time.process_time() - began
    return {
        "bytes_a_row": {
            "arrow": round(arrow / rows),
            "parquet": round((folder / "rows.parquet").stat().st_size / rows),
            "parquet_footer": round(pyarrow.parquet.read_metadata(folder / "rows.parquet").serialized_size / rows),
            "pt": (folder / "0.pt").stat().st_size,
        },
        "parquet_cpu_seconds_a_row": round(seconds / rows, 4),
    }


def measure_writing(folder: Path, rows: int) -> float:
    """CPU seconds to take a three-minute song from the cache, check it and write its row: what a second run does."""
    store, draw, frames = TensorStore(folder / "cache"), torch.Generator().manual_seed(0), 180 * FRAMES_PER_SECOND
    for number in range(rows):
        latents = {name: torch.randn(frames, CHANNELS, generator=draw) for name in ("mean", "std")}
        condition = {"encoder_hidden_states": torch.randn(TOKENS, CONDITION_SIZE, generator=draw)}
        store.put("latents", f"{number:040x}", latents)
        store.put("condition", f"{number:040x}", condition)
    record = ModelRecord(model="benchmark", revision=None, vae="", text_encoder="", condition_encoder="")

    def encoded():
        for number in range(rows):
            values = {"id": f"{number:032x}", "duration": 180.0, "sample_rate": 48_000, "channels": 2, "caption": "a"}
            song = Song(file_name=f"{number}.wav", path=Path(f"{number}.wav"), **values)
            latents, condition = (store.get(kind, f"{number:040x}") for kind in ("latents", "condition"))
            condition = {"caption": condition["encoder_hidden_states"].numpy()}
            yield song_row(song, song_prompts(song), condition, latents["mean"].numpy(), latents["std"].numpy())

    began = time.process_time()
    write_dataset(encoded, folder / "written", record, channels=CHANNELS, condition_size=CONDITION_SIZE)
    return round((time.process_time() - began) / rows, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20, help="songs in each dataset")
    parser.add_argument("--repeats", type=int, default=20, help="how often all of them are read")
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        "date": date.today().isoformat(),
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "load_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "versions": {package: version(package) for package in ("datasets", "pyarrow", "torch", "numpy")},
        "rows": options.rows,
        **measure(options.rows, options.repeats),
    }
    text = json.dumps(record, indent=2)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
