"""Time a scan of a folder, every check included, beside a plain loop that only decodes with soundfile.

    python benchmarks/scan_songs.py
    python benchmarks/scan_songs.py --files 1000 --seconds 3 --repeats 3 --output benchmarks/results/scan_songs.json

Files in five formats are made first (another folder is used with --data_dir). Both ways run in turn, `--repeats` times,
and the medians are compared: a scan also hashes, measures, checks containers and checksums, and isolates decoders.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile

from acestep.songs import SongOptions, scan_songs

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
}
RATE = 48000


def make_files(folder: Path, files: int, seconds: float) -> None:
    """Write short stereo songs, no two alike, the five formats in turn."""
    suffixes = list(FORMATS)
    clock = np.arange(round(seconds * RATE))[:, None] / RATE
    for number in range(files):
        random = np.random.default_rng(number)
        pitches = 110 * 2 ** (random.integers(0, 36, 3) / 12)
        chord = sum(np.sin(2 * np.pi * pitch * clock) for pitch in pitches) / 8
        beat = np.exp(-8 * (clock % 0.5)) * random.standard_normal((len(clock), 2)) * 0.06
        samples = (chord + beat).astype(np.float32)
        suffix = suffixes[number % len(suffixes)]
        kind, subtype = FORMATS[suffix]
        with soundfile.SoundFile(folder / f"{number:04}{suffix}", "w", RATE, 2, format=kind, subtype=subtype) as file:
            for start in range(0, len(samples), 4800):  # long Ogg files crash libsndfile in one write
                file.write(samples[start : start + 4800])


def plain_loop(folder: Path) -> int:
    """Decode every file with soundfile, one after another; return how many."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in FORMATS)
    for path in files:
        soundfile.read(path, dtype="float32")
    return len(files)


def timed(function) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def measure(folder: Path, repeats: int, workers: list[int]) -> dict[str, object]:
    """Return the seconds of each way, in turn, and the ratios of their medians."""
    ways = {"plain_loop": lambda: plain_loop(folder)}
    for number in workers:
        ways[f"scan_{number}_workers"] = lambda n=number: len(scan_songs(folder, SongOptions(decode_workers=n)).songs)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counts = set()
    for _ in range(repeats):
        for name, run in ways.items():
            taken, count = timed(run)
            seconds[name].append(round(taken, 2))
            counts.add(count)
            print(f"{name}: {taken:.2f} s for {count} files", file=sys.stderr)
    if len(counts) != 1:
        raise SystemExit(f"error: the ways found {sorted(counts)} files; expected the same number.")
    plain = statistics.median(seconds["plain_loop"])
    ratios = {name: round(statistics.median(values) / plain, 2) for name, values in seconds.items()}
    return {"files": counts.pop(), "seconds": seconds, "ratio_to_plain_loop": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000, help="how many files to make")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each is")
    parser.add_argument("--repeats", type=int, default=3, help="how often each way runs")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of worker processes to try")
    parser.add_argument("--data_dir", type=Path, help="a folder to use instead of making files")
    parser.add_argument(
        "--output", type=Path, help="write the result there as JSON; a run of the same name is replaced"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.data_dir or Path(made)
        if options.data_dir is None:
            make_files(folder, options.files, options.seconds)
        result = measure(folder, options.repeats, options.workers)
    name = "given folder" if options.data_dir else f"{options.files} files of {options.seconds:g} s"
    record = {
        "date": date.today().isoformat(),
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "load_before": round(os.getloadavg()[2], 1) if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version(), "libsndfile": soundfile.__libsndfile_version__}
        | {package: version(package) for package in ("soundfile", "numpy")},
        **result,
    }
    print(json.dumps({name: record}, indent=2))
    if options.output:
        known = json.loads(options.output.read_text()) if options.output.exists() else {}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**known, name: record}, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
