"""Print what `make demo` made, as a table: songs, training, adapter, audio.

python scripts/demo_report.py --demo_dir demo
"""

import json
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options


@dataclass
class ReportOptions:
    demo_dir: str = option("demo", "folder with data/, lora/ and the two pieces of music")


def main() -> None:
    options = parse_options(ReportOptions, __doc__)
    folder = Path(options.demo_dir)
    lora = folder / "lora" / "pytorch_lora_weights.safetensors"
    music = [folder / "music.wav", folder / "music.base.wav"]
    missing = [str(path) for path in (folder / "data", lora, *music) if not path.exists()]
    if missing:
        raise UserError(f"--demo_dir {folder}: {', '.join(missing)} is missing. Run `make demo`.")

    import soundfile
    from datasets import load_from_disk

    data = load_from_disk(str(folder / "data"))
    summary = json.loads((folder / "lora" / "training_summary.json").read_text(encoding="utf-8"))
    before, after = summary["evaluation_before"], summary["evaluation_after"]
    songs = f"{len(set(data['song_id']))} songs, {sum(data['duration']) / 60:.1f} minutes, {sum(data['frames'])} frames"
    rows = [
        ("prepared", songs, folder / "data"),
        ("trained", f"{summary['steps']} steps in {summary['seconds']:.0f} s", folder / "lora" / "loss.png"),
        ("loss before", f"{before['loss']:.4f} over {before['pairs']} held-out (t, noise) pairs", ""),
        ("loss after", f"{after['loss']:.4f} ({after['loss'] / before['loss'] - 1:+.1%}) on the same pairs", ""),
        ("adapter", f"{lora.stat().st_size / 1e3:.0f} kB", lora),
    ]
    for path, what in zip(music, ("with the adapter", "without"), strict=True):
        audio, rate = soundfile.read(path, always_2d=True)
        level = f"{len(audio) / rate:.1f} s, peak {abs(audio).max():.2f}, RMS {(audio**2).mean() ** 0.5:.2f}"
        rows.append((what, level, path))
    width = max(len(text) for _, text, _ in rows)
    print(f"\n{'':-<{width + 50}}")
    for name, text, path in rows:
        print(f"{name:<17}{text:<{width + 2}}{path}")
    print(f"{'':-<{width + 50}}")


if __name__ == "__main__":
    run_script(main)
