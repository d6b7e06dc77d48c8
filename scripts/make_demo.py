"""Make the demo's six songs and a tiny ACE-Step model to train on them; nothing is downloaded.

    python scripts/make_demo.py --output_dir demo

writes `demo/songs/` (audio in five formats with lyrics, captions, JSON and a Key-BPM-Finder CSV) and `demo/model/` (a
pipeline in diffusers layout with the real geometry, trained from scratch in about a minute). The same seed gives the
same demo. For a model with random weights, at once:

    python scripts/make_demo.py --output_dir demo --decoder_steps 0 --flow_steps 0
"""

import time
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options


@dataclass
class MakeDemoOptions:
    output_dir: Path = option(Path("demo"), help="folder for songs/ and model/")
    seed: int = option(0, help="seed of the music and the model")
    practice_songs: int = option(12, help="pieces of music that the tiny model learns from, two of them only measured")
    decoder_steps: int = option(20, help="training steps of the VAE's decoder")
    flow_steps: int = option(200, help="training steps of the transformer and the condition encoder")


def main() -> None:
    options = parse_options(MakeDemoOptions, __doc__)
    for name, least in (("practice_songs", 3), ("decoder_steps", 0), ("flow_steps", 0), ("seed", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}; expected {least} or more.")

    from acestep.quiet import quiet_libraries
    from acestep.songs.composition import perform
    from acestep.songs.demo_songs import practice_pieces, write_demo_songs

    quiet_libraries()
    started = time.perf_counter()
    songs_dir, model_dir = options.output_dir / "songs", options.output_dir / "model"
    songs = write_demo_songs(songs_dir, options.seed)
    print(f"Wrote {len(songs)} songs to {songs_dir}. Training a tiny model ...", flush=True)

    from acestep.models.tiny import save_tiny_pipeline
    from acestep.models.tiny_training import PracticeSong, train_tiny_model

    practice = [
        PracticeSong(perform(piece), caption, piece.bpm, piece.key, str(piece.beats_per_bar))
        for piece, caption in practice_pieces(options.practice_songs, options.seed)
    ]
    components, figures = train_tiny_model(
        practice,
        options.seed,
        options.decoder_steps,
        options.flow_steps,
        report=lambda line: print(f"  {line}", flush=True),
    )
    save_tiny_pipeline(components, model_dir)
    weights = sum(weight.numel() for weight in components["transformer"].parameters())
    print(f"VAE, spectral distance to songs held out: {_change(figures.spectral_distance)} nepers")
    print(f"transformer, flow-matching loss on them:  {_change(figures.flow_loss)}")
    print(f"{songs_dir}: {len(songs)} songs")
    for song in songs:
        print(f"  {song.name}")
    print(f"{model_dir}: AceStepPipeline, transformer with {weights / 1e6:.1f} million weights")
    print(f"Made in {time.perf_counter() - started:.0f} s.")


def _change(figures: tuple[float, float]) -> str:
    return f"{figures[0]:.3f} -> {figures[1]:.3f}"


if __name__ == "__main__":
    run_script(main)
