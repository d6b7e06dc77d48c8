"""Time and peak memory of preparing 20 and 2,000 songs, a second run with nothing changed, and the files' sizes.

    python benchmarks/prepare_songs.py
    python benchmarks/prepare_songs.py --songs 20 2000 --seconds 1 --output benchmarks/results/prepare_songs.json
    python benchmarks/prepare_songs.py --songs 4 --seconds 30 --released_vae

The public script runs on songs made on the spot with a tiny model; --released_vae gives it the released VAE's layers
(random weights), since with a tiny one there is nothing that a second run could save. Memory is the largest of the
script's process and its workers. Start-up is a run that finds one song in the cache. Of second runs and of start-up,
three are made and the one with the median CPU seconds is recorded.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
RATE = 48_000
REPEATS = 3


def make_songs(folder: Path, songs: int, seconds: float) -> None:
    """Noise with a beat, no two alike, a caption and lyrics beside each."""
    folder.mkdir()
    clock = np.arange(round(seconds * RATE)) / RATE
    for number in range(songs):
        noise = np.random.default_rng(number).standard_normal((len(clock), 2)) * 0.1
        soundfile.write(folder / f"{number:05}.flac", noise * np.exp(-(clock % 0.5))[:, None], RATE)
        texts = {"caption": f"noise number {number}", "lyrics": "la la la\n" * 20, "language": "en", "bpm": 120}
        (folder / f"{number:05}.json").write_text(json.dumps(texts))
    time.sleep(2.1)  # files that were only just written are checked again by the next run


def make_model(folder: Path, released_vae: bool) -> None:
    """A tiny model, with a narrow VAE or the released one's layers."""
    from diffusers import AutoencoderOobleck

    from acestep.models.tiny import save_tiny_pipeline, tiny_components

    vae = AutoencoderOobleck(sampling_rate=RATE, downsampling_ratios=[2, 4, 4, 6, 10]) if released_vae else None
    components = tiny_components(0, latent_channels=64 if released_vae else 8, encoder_hidden_size=16, vae=vae)
    save_tiny_pipeline(components, folder)


def prepare(work: Path, songs: Path, output: str, *more: str) -> dict[str, float]:
    """Run the script; its seconds, its CPU seconds (which other work changes less), its peak memory."""
    command = [sys.executable, "scripts/prepare_dataset.py", "--data_dir", songs, "--output_dir", work / output]
    command += ["--pretrained_model_name_or_path", work / "model", "--overwrite", *more]
    began = time.monotonic()
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"error: the script ended with {process.returncode}:\n{said}")
    print(said.splitlines()[-1], file=sys.stderr)
    checked = re.search(r"(\d+) files? checked", said)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss * unit / 1e6, 1),
        "files_checked": int(checked[1]),
    }


def repeated(times: int, *arguments: object) -> dict[str, float]:
    """The run with the median CPU seconds of several."""
    runs = sorted((prepare(*arguments) for _ in range(times)), key=lambda run: run["cpu_seconds"])
    return runs[times // 2]


def measure(counts: list[int], seconds: float, released_vae: bool, more: list[str]) -> dict[str, dict]:
    """Results by the number of songs."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_model(work / "model", released_vae)
        make_songs(work / "one", 1, seconds)
        prepare(work, work / "one", "data-one", *more)
        start = repeated(REPEATS, work, work / "one", "data-one", *more)
        for count in counts:
            songs = work / f"songs{count}"
            make_songs(songs, count, seconds)
            cache = work / f"cache{count}"
            command = (work, songs, f"data{count}", "--cache_dir", str(cache), *more)
            runs = [prepare(*command), repeated(REPEATS, *command)]
            first, second = (run["cpu_seconds"] - start["cpu_seconds"] for run in runs)
            size = sum(path.stat().st_size for path in (work / f"data{count}").rglob("*") if path.is_file())
            results[f"{count} songs"] = {
                "first": runs[0],
                "second": runs[1],
                "start_up": start,
                "second_over_first_cpu_without_start_up": round(second / first, 4),
                "dataset_bytes_a_song": round(size / count),
                "cache_bytes_a_song": round(sum(p.stat().st_size for p in cache.rglob("*") if p.is_file()) / count),
            }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, nargs="+", default=[20, 2000], help="numbers of songs to try")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each is")
    parser.add_argument("--released_vae", action="store_true", help="the released VAE's layers")
    parser.add_argument(
        "--output", type=Path, help="write the result there as JSON; a run of the same name is replaced"
    )
    options, more = parser.parse_known_args()
    vae = "released VAE" if options.released_vae else "tiny VAE"
    name = f"{vae}, songs of {options.seconds:g} s{' ' if more else ''}{' '.join(more)}"
    record = {
        "date": date.today().isoformat(),
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "load_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "versions": {package: version(package) for package in ("datasets", "diffusers", "torch", "numpy")},
        **measure(options.songs, options.seconds, options.released_vae, more),
    }
    print(json.dumps({name: record}, indent=2))
    if options.output:
        known = json.loads(options.output.read_text()) if options.output.exists() else {}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**known, name: record}, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
