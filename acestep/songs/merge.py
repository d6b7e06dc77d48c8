"""Joins what the files beside a song say into its fields, each with where it came from."""

from dataclasses import dataclass, field

from acestep.songs.folder import Folder
from acestep.songs.lyrics import Lyrics, is_instrumental_mark, parse_lyrics, sung_lines
from acestep.songs.sidecars import (
    SidecarIndex,
    looks_like_caption,
    looks_like_key_values,
    read_json,
    read_key_values,
)
from acestep.songs.song import INSTRUMENTAL
from acestep.songs.song_options import SongOptions
from acestep.songs.text_files import read_text


@dataclass
class Fields:
    """What is known of a song besides its audio.

    Attributes:
        values: field -> value, fields as in `acestep.songs.fields`.
        sources: field -> where the value came from.
        lyrics: the parsed lyrics, or None.
        warnings: what a person should look at.
        unused: keys of its JSON that mean nothing here.
    """

    values: dict[str, object] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    lyrics: Lyrics | None = None
    warnings: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def put(self, values: dict[str, object], source: str) -> None:
        """Take values; they win over what was there."""
        self.values.update(values)
        self.sources.update(dict.fromkeys(values, source))


def read_fields(folder: Folder, sidecars: SidecarIndex, audio: str, rows: Fields, options: SongOptions) -> Fields:
    """Read the sidecars of an audio file and join them with its CSV rows.

    Caption: `key: value` text < `.caption.txt` < JSON < CSV. Lyrics: CSV < JSON < `.lrc` < `.txt` < `.lyrics.txt`.
    Everything else: `key: value` text < JSON < CSV.

    Raises:
        UserError: a sidecar cannot be read: training without it would ignore what a person wrote.
    """
    result = Fields(warnings=list(rows.warnings))
    lyrics = _read_lyrics_files(folder, sidecars, audio, options, result)
    if caption_file := sidecars.find(audio, ".caption.txt"):
        if caption := read_text(folder.root / caption_file, caption_file).strip():
            result.put({"caption": caption}, caption_file)
        else:
            result.warnings.append(f"{caption_file} is empty")
    if json_file := sidecars.find(audio, ".json"):
        reading = read_json(folder.root / json_file, json_file, folder.root)
        result.warnings += reading.warnings
        result.unused += reading.unused
        result.put(reading.values, json_file)
    for name, value in rows.values.items():
        if name != "lyrics" or "lyrics" not in result.values:
            result.put({name: value}, rows.sources[name])
    if lyrics:
        result.put({"lyrics": lyrics[0]}, lyrics[1])
    _settle_tag(result, options)
    _settle_lyrics(result, audio, options)
    return result


def _read_lyrics_files(
    folder: Folder, sidecars: SidecarIndex, audio: str, options: SongOptions, result: Fields
) -> tuple[str, str] | None:
    """Return (text, file) of the first lyrics file that says something, and warn of the others."""
    chosen = None
    for suffix in (".lyrics.txt", ".txt", ".lrc"):
        name = sidecars.find(audio, suffix)
        if name is None:
            continue
        text = read_text(folder.root / name, name)
        if suffix == ".txt" and options.sidecar_format == "keyvalue" and looks_like_key_values(text):
            reading = read_key_values(text, name)
            result.warnings += reading.warnings
            result.unused += reading.unused
            result.put({key: value for key, value in reading.values.items() if key != "lyrics"}, name)
            text = str(reading.values.get("lyrics", ""))
            if not text:
                continue
        elif suffix == ".txt" and looks_like_key_values(text):
            result.warnings.append(
                f'{name} looks like "key: value" lines, but is read as lyrics; use --sidecar_format keyvalue'
            )
        elif suffix == ".txt" and looks_like_caption(text):
            better = name[: -len(suffix)] + ".caption.txt"
            result.warnings.append(f"{name} looks like a caption, but is read as lyrics; rename it to {better}")
        if not text.strip():
            result.warnings.append(f"{name} is empty")
        elif chosen is None:
            chosen = (text, name)
        else:
            result.warnings.append(f"{name} is not used: {chosen[1]} has the lyrics")
    return chosen


def _settle_tag(result: Fields, options: SongOptions) -> None:
    """Put the options' trigger tag where the song names none."""
    if options.custom_tag and "custom_tag" not in result.values:
        result.put({"custom_tag": options.custom_tag}, "--custom_tag")
    if options.tag_position != "prepend" and "tag_position" not in result.values:
        result.put({"tag_position": options.tag_position}, "--tag_position")
    if options.genre_ratio:
        result.put({"genre_ratio": options.genre_ratio}, "--genre_ratio")
    texts = [name for name in ("caption", "genre") if result.values.get(name)]
    override = result.values.get("prompt_override")
    if override and override not in texts:
        result.warnings.append(f'prompt_override is "{override}", but it has no {override}; what it has is used')
    if not texts:
        has = "only the trigger tag" if result.values.get("custom_tag") else "nothing"
        result.warnings.append(f"no caption: {has} describes it")


def _settle_lyrics(result: Fields, audio: str, options: SongOptions) -> None:
    """Decide whether anybody sings, and what. A song with lyrics is never instrumental."""
    values, sources = result.values, result.sources
    lyrics = parse_lyrics(str(values.get("lyrics", "")))
    mark = is_instrumental_mark(lyrics.text) or values.get("language") == "instrumental"
    said = values.get("is_instrumental")
    if values.get("language") == "instrumental":
        values["language"] = "unknown"
        sources["is_instrumental"] = sources["language"]
    has_lyrics = bool(lyrics.text) and not is_instrumental_mark(lyrics.text)
    if has_lyrics:
        if said or mark or options.all_instrumental:
            by = sources.get("is_instrumental", "--all_instrumental") if said or mark else "--all_instrumental"
            result.warnings.append(f"has lyrics ({sources['lyrics']}), so it is not instrumental although {by} says so")
        if not sung_lines(lyrics.text):
            result.warnings.append(f"{sources['lyrics']} holds structure tags and no line to sing")
        values.update(lyrics=lyrics.text, is_instrumental=False)
        sources["is_instrumental"] = sources["lyrics"]
        result.lyrics = lyrics
        return
    if mark or said or options.all_instrumental:
        if said is False:
            result.warnings.append(f"marked instrumental, but {sources['is_instrumental']} says that it is not")
        if is_instrumental_mark(lyrics.text):
            sources["is_instrumental"] = sources["lyrics"]
        elif not (mark or said):
            sources["is_instrumental"] = "--all_instrumental"
        values["is_instrumental"] = True
    else:
        values["is_instrumental"] = said is None
        sources["is_instrumental"] = sources.get("is_instrumental", "default")
        file = audio.rsplit(".", 1)[0] + ".lyrics.txt"
        result.warnings.append(
            f"no lyrics: does anybody sing? Write them to {file}, or [Instrumental], or use --all_instrumental"
        )
    sources.setdefault("lyrics", "default")
    values["lyrics"] = INSTRUMENTAL
