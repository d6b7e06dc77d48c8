"""Encode a folder of songs into a dataset for training.

    python scripts/prepare_dataset.py --data_dir songs --pretrained_model_name_or_path ACE-Step/acestep-v15-base \\
        --output_dir data
    python scripts/prepare_dataset.py --data_dir songs --pretrained_model_name_or_path checkpoints --variant turbo \\
        --output_dir data --custom_tag mybandsound

Reads songs with the lyrics, captions, JSON and CSV beside them (docs/songs.md), shows what it found, and writes an
Arrow dataset with latents and conditions that `datasets.load_from_disk` opens. What has been encoded once is kept in
--cache_dir, so that a second run encodes only what changed.
"""

from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError, run_script
from acestep.options import option, parse_options, required
from acestep.songs.song_options import SongOptions


@dataclass
class PrepareOptions(SongOptions):
    data_dir: str = required("folder with the songs")
    pretrained_model_name_or_path: str = required("folder or Hub id of the model that will be trained")
    output_dir: str = required("folder to write the dataset to")
    variant: str | None = option(None, "which model of an original bundle, such as base, sft, turbo or xl-base")
    bundle: str | None = option(None, "folder or Hub id with VAE and text encoder, where the model is one variant only")
    revision: str | None = option(None, "branch, tag or commit of a Hub model")
    overwrite: bool = option(False, "replace the dataset in --output_dir once the new one is complete")
    cache_dir: str | None = option(None, "where encoded songs are kept; default: .acestep_cache beside --output_dir")
    clear_cache: bool = option(False, "empty --cache_dir first")
    storage_dtype: str = option("float16", "of latents and conditions in the dataset", ["float16", "float32"])
    device: str | None = option(None, "of the encoders, such as cuda or cpu; default: a GPU if there is one")
    encode_dtype: str = option("float32", "the encoders compute in this dtype", ["float32", "bfloat16"])
    vae_tile_seconds: int = option(10, "the VAE encodes this much audio at once; less needs less memory")


def main() -> int:
    options = parse_options(PrepareOptions, __doc__)
    options.check()
    output_dir = Path(options.output_dir)

    from acestep.dataset.assemble import check_output
    from acestep.songs import scan_songs, song_table

    check_output(output_dir, options.overwrite)
    scan = scan_songs(options.data_dir, options)
    print(song_table(scan))
    if not scan.songs:
        raise UserError(f"--data_dir {options.data_dir}: no song is left to encode; see the reasons above.")

    from acestep.quiet import quiet_libraries

    quiet_libraries()
    import time

    import torch

    from acestep.dataset.assemble import write_dataset
    from acestep.dataset.encoder import DatasetEncoder
    from acestep.dataset.store import TensorStore
    from acestep.models.checkpoint import Checkpoint

    began = time.monotonic()
    checkpoint = Checkpoint(options.pretrained_model_name_or_path, options.variant, options.bundle, options.revision)
    store = TensorStore(Path(options.cache_dir or output_dir.absolute().parent / ".acestep_cache"))
    if options.clear_cache:
        store.clear()
    encoder = DatasetEncoder(
        checkpoint,
        store,
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=getattr(torch, options.encode_dtype),
        tile_seconds=options.vae_tile_seconds,
        workers=options.decode_workers,
    )
    prepared = encoder.encode(scan.songs)
    if not prepared.songs:
        reasons = "; ".join(f"{song.file_name}: {song.reason}" for song in prepared.skipped)
        raise UserError(f"no song could be decoded: {reasons}")
    rows = write_dataset(
        lambda: encoder.rows(prepared.songs),
        output_dir,
        encoder.record,
        channels=checkpoint.transformer_config["audio_acoustic_hidden_dim"],
        condition_size=checkpoint.condition_size,
        dtype=options.storage_dtype,
    )
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    for path in store.damaged:
        print(f"warning: {path}: was damaged and has been made again.")
    skipped = scan.skipped + prepared.skipped
    for song in skipped:
        print(f"skipped: {song.file_name}: {song.reason}")
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in prepared.seconds.items())
    print(
        f"{output_dir}: {rows.songs} songs in {rows.rows} rows, {rows.seconds / 60:.1f} minutes, {rows.frames} frames; "
        f"{len(skipped)} skipped. {prepared.encoded} encoded, {prepared.reused} from the cache "
        f"({store.folder}, {store.size() / 1e6:.0f} MB). {stages}; {time.monotonic() - began:.1f} s in all."
    )
    return 1 if skipped and not options.allow_skips else 0


if __name__ == "__main__":
    run_script(main)
