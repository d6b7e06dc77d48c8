"""A folder of songs becomes a dataset: scan, encode, assemble, publish, report."""

import time
from pathlib import Path

from acestep.dataset.cache_folder import cache_size, clear_cache, remove_unfinished
from acestep.dataset.options import PrepareOptions
from acestep.dataset.processes import Processes
from acestep.errors import UserError
from acestep.songs import Scan, SkippedSong, Song, scan_songs, song_table
from acestep.songs.probe_cache import ProbeCache
from acestep.songs.showing import counted


def prepare(options: PrepareOptions) -> int:
    """Prepare a dataset, in every process of the launch.

    Returns:
        The exit status: 1 when songs were skipped without --allow_skips.

    Raises:
        UserError: for what the user can mend.
    """
    options.check()
    processes, scan, probes = Processes(), None, ProbeCache(cache_folder(options))
    if processes.is_main:
        scan = _scan(options, probes)
    from acestep.quiet import quiet_libraries

    quiet_libraries()
    import torch

    from acestep.dataset.encoder import DatasetEncoder
    from acestep.dataset.store import TensorStore
    from acestep.models.checkpoint import Checkpoint

    try:
        device = processes.connect(options.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {options.device}: cannot be used: {str(error).splitlines()[0]}") from None
    songs: list[Song] = processes.from_main(scan.songs if scan else None)
    began = time.monotonic()
    checkpoint = Checkpoint(options.pretrained_model_name_or_path, options.variant, options.bundle, options.revision)
    store = TensorStore(cache_folder(options))
    encoder = DatasetEncoder(
        checkpoint,
        store,
        device=device,
        dtype=getattr(torch, options.encode_dtype),
        tile_seconds=options.vae_tile_seconds,
        workers=options.decode_workers,
        decode_timeout=options.decode_timeout,
        processes=processes,
    )
    prepared = encoder.encode(songs)
    if not processes.is_main:
        return 0
    if not prepared.songs:
        raise UserError(f"no song could be decoded: {_reasons(prepared.skipped)}")
    totals = _assemble(options, encoder, prepared)
    skipped = scan.skipped + prepared.skipped
    _report(options, store, probes, prepared, totals, skipped, time.monotonic() - began)
    if options.push_to_hub:
        from acestep.dataset.publish import publish

        publish(options, {song.row_id: song for song in prepared.songs})
    return 1 if skipped and not options.allow_skips else 0


def cache_folder(options: PrepareOptions) -> Path:
    """`--cache_dir`, or the one beside the dataset."""
    return Path(options.cache_dir or Path(options.output_dir).absolute().parent / ".acestep_cache")


def _scan(options: PrepareOptions, probes: ProbeCache) -> Scan:
    """Everything that can be wrong is looked for before the long work begins."""
    from acestep.dataset.assemble import check_output
    from acestep.dataset.splits import split_songs

    check_output(Path(options.output_dir), options.overwrite)
    if options.clear_cache:
        clear_cache(probes.folder)
    remove_unfinished(probes.folder)
    scan = scan_songs(options.data_dir, options, cache=probes)
    # without the advice at the table's end: it is being followed, and may name the folder with its path
    print(song_table(scan, next_steps=False))
    if not scan.songs:
        raise UserError(f"--data_dir {options.data_dir}: no song is left to encode; see the reasons above.")
    split_songs(scan.songs, options.validation_split, options.validation_seed)
    if options.push_to_hub:
        from acestep.dataset.publish import check_hub

        check_hub(options)
    return scan


def _assemble(options: PrepareOptions, encoder, prepared):
    from acestep.dataset.assemble import write_dataset
    from acestep.dataset.splits import split_songs

    splits = split_songs(prepared.songs, options.validation_split, options.validation_seed)
    rows = {name: lambda part=part: (encoder.row(song, prepared) for song in part) for name, part in splits.items()}
    return write_dataset(
        rows if options.validation_split else rows["train"],
        Path(options.output_dir),
        encoder.record,
        channels=encoder.checkpoint.transformer_config["audio_acoustic_hidden_dim"],
        condition_size=encoder.checkpoint.condition_size,
        dtype=options.storage_dtype,
    )


def _report(
    options: PrepareOptions, store, probes: ProbeCache, prepared, totals, skipped: list[SkippedSong], seconds: float
) -> None:
    """Only names, no whole paths: logs are pasted into public places."""
    for warning in prepared.warnings:
        print(f"warning: {warning}")
    for path in sorted(store.damaged | probes.damaged):
        print(f"warning: {path.relative_to(store.folder)}: was damaged and has been made again.")
    for song in skipped:
        print(f"skipped: {song.file_name}: {song.reason}")
    stages = ", ".join(f"{stage} {taken:.1f} s" for stage, taken in prepared.seconds.items())
    print(
        f"{Path(options.output_dir).name}: {counted(totals.songs, 'song')} in {counted(totals.rows, 'row')}, "
        f"{totals.seconds / 60:.1f} minutes, {totals.frames} frames; {len(skipped)} skipped. "
        f"{counted(probes.checked, 'file')} checked, {probes.known} known; {prepared.encoded} encoded, "
        f"{prepared.reused} from the cache ({store.folder.name}, {cache_size(store.folder) / 1e6:.1f} MB). "
        f"{stages}; {seconds:.1f} s in all."
    )


def _reasons(skipped: list[SkippedSong]) -> str:
    return "; ".join(f"{song.file_name}: {song.reason}" for song in skipped)
