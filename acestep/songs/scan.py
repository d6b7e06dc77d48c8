"""Scans a folder: every audio file is decoded once and checked, and joined with what the files beside it say."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from acestep.errors import UserError
from acestep.songs.csv_files import Tables, read_tables
from acestep.songs.decode import skip_reason
from acestep.songs.folder import AUDIO_SUFFIXES, Folder, list_folder
from acestep.songs.merge import Fields, read_fields
from acestep.songs.probe import Probe, probe
from acestep.songs.probe_cache import ProbeCache
from acestep.songs.segments import cut_song
from acestep.songs.showing import printable
from acestep.songs.sidecars import SidecarIndex, parse_json
from acestep.songs.song import Scan, SkippedSong, Song
from acestep.songs.song_options import SongOptions
from acestep.songs.text_files import read_text
from acestep.songs.workers import run_in_workers

DURATION_RANGE = (10.0, 600.0)  # what the model was made for


def scan_songs(
    data_dir: Path | str, options: SongOptions | None = None, progress=None, cache: ProbeCache | None = None
) -> Scan:
    """Read and check every song of a folder.

    Args:
        data_dir: the folder; all below it is read too.
        options: see `SongOptions`; the defaults if None.
        progress: called with (files checked, all files) after each file, for a progress bar.
        cache: what earlier scans found out; files that it knows are not decoded.

    Returns:
        The songs sorted by path, what was skipped and why, and notes. The order and every value depend on the folder's
        content alone.

    Raises:
        UserError: the folder cannot be read or has no audio, a CSV in it cannot be read, or an option makes no sense.
    """
    options = options or SongOptions()
    options.check()
    folder = list_folder(Path(data_dir))
    if not folder.audio and not folder.skipped:
        raise UserError(f"{data_dir}: no audio found; expected {' '.join(AUDIO_SUFFIXES)} there or below it.")
    tables = read_tables(folder)
    scan = Scan(
        folder.root,
        skipped=folder.skipped + tables.skipped,
        notes=folder.notes + tables.notes,
        data_dir_given=str(data_dir),
    )
    sidecars = SidecarIndex(folder.texts)
    found = _read_all_fields(folder, sidecars, tables, options)

    first_of_id: dict[str, str] = {}
    unused: Counter[str] = Counter()
    probes = _probe_all(folder, options, cache)
    for done, (audio, result) in enumerate(zip(folder.audio, probes, strict=True), 1):
        fields = found[audio]
        error = next((e for e in (result, fields) if isinstance(e, Exception)), None)
        if error is not None:
            scan.skipped.append(SkippedSong(printable(audio), printable(skip_reason(error))))
        else:
            unused.update(set(fields.unused))
            song = _song(folder, audio, result, fields)
            if song.id in first_of_id:
                song.warnings.append(f"a copy: the same audio as {first_of_id[song.id]}")
            first_of_id.setdefault(song.id, audio)
            seconds = options.segment_seconds
            rows = cut_song(song, seconds, fields.lyrics) if seconds else [song]
            for row in rows:
                _warn_of_duration(row)
            scan.songs += rows
        if progress is not None:
            progress(done, len(folder.audio))
    scan.skipped.sort(key=lambda skipped: skipped.file_name)
    _add_notes(scan, folder, sidecars, unused)
    return scan


def _read_all_fields(
    folder: Folder, sidecars: SidecarIndex, tables: Tables, options: SongOptions
) -> dict[str, Fields | UserError]:
    found: dict[str, Fields | UserError] = {}
    for audio in folder.audio:
        try:
            found[audio] = read_fields(folder, sidecars, audio, tables.by_song[audio], options)
        except UserError as error:
            found[audio] = error
    return found


def _probe_all(folder: Folder, options: SongOptions, cache: ProbeCache | None) -> Iterator[Probe | Exception]:
    """What each audio file holds, in order, or why it cannot be used."""
    arguments = (options.max_decoded_gb * 1e9, options.downmix)
    known = {audio: cache.get(folder.root / audio, arguments) for audio in folder.audio} if cache else {}
    tasks = ((folder.root / audio, *arguments) for audio in folder.audio if known.get(audio) is None)
    # Results are small: a long file must not hold up the ones behind it.
    workers = options.decode_workers
    results = run_in_workers(probe, tasks, workers, options.decode_timeout, ahead=32 * workers)
    with contextlib.closing(results):
        for audio in folder.audio:
            result = known.get(audio)
            if result is None:
                result = next(results)
                if cache and isinstance(result, Probe):
                    cache.put(folder.root / audio, arguments, result)
            yield result


def _song(folder: Folder, audio: str, checked: Probe, fields: Fields) -> Song:
    times = None
    if fields.lyrics is not None and fields.lyrics.timed_lines:
        times = [(line.seconds, line.text) for line in fields.lyrics.timed_lines]
    return Song(
        file_name=audio,
        path=folder.root / audio,
        id=checked.id,
        duration=checked.frames / checked.sample_rate,
        sample_rate=checked.sample_rate,
        channels=checked.channels,
        lossy=checked.lossy,
        line_times=times,
        sources=fields.sources,
        warnings=[printable(warning) for warning in (*checked.warnings, *fields.warnings)],
        **fields.values,
    )


def _warn_of_duration(song: Song) -> None:
    low, high = DURATION_RANGE
    if not low <= song.duration <= high:
        song.warnings.append(f"lasts {song.duration:.1f} s; the model was made for {low:g} to {high:g} s")


def _is_dataset_json(path: Path) -> bool:
    try:
        content = parse_json(read_text(path), path.name, [])
    except UserError:
        return False
    return isinstance(content, dict) and isinstance(content.get("samples"), list)


def _add_notes(scan: Scan, folder: Folder, sidecars: SidecarIndex, unused: Counter[str]) -> None:
    if unused:
        keys = ", ".join(f"{key} ({count})" for key, count in sorted(unused.items()))
        scan.notes.append(printable(f"JSON keys that mean nothing here, not used: {keys}"))
    for name in sorted(sidecars.unused):
        advice = "Name it like the audio file, or remove it."
        if name.lower().endswith(".json") and _is_dataset_json(folder.root / name):
            advice = "It is a dataset of the original tool: take it in with inspect_dataset.py --import_json."
        scan.notes.append(printable(f"{name} belongs to no song. {advice}"))
    stems = Counter(audio.rsplit(".", 1)[0] for audio in folder.audio)
    for stem, count in sorted(stems.items()):
        if count > 1:
            scan.notes.append(printable(f"{count} audio files are called {stem}: the texts beside them belong to all."))
