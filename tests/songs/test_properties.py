"""Arbitrary bytes and text at every reader: the outcome is a value or our own error, never another exception."""

import json
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestep.errors import UserError
from acestep.songs import mpeg, ogg
from acestep.songs.chunks import chunk_damage, flac_promise
from acestep.songs.csv_files import read_rows
from acestep.songs.dataset_json import import_dataset_json
from acestep.songs.fields import FIELDS, parse_field
from acestep.songs.folder import inside
from acestep.songs.keys import parse_key
from acestep.songs.languages import LANGUAGES, parse_language
from acestep.songs.lyrics import parse_lyrics
from acestep.songs.measure import Meter, measure_warnings
from acestep.songs.probe import probe
from acestep.songs.showing import printable
from acestep.songs.sidecars import looks_like_caption, looks_like_key_values, read_json, read_key_values
from acestep.songs.table import clock
from acestep.songs.text_files import decode_text
from tests.songs.clips import write_song

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
# Text that is likely to mean something to one of the readers, among anything else.
pieces = st.sampled_from(
    ["[00:01.00]", "<00:02.5>", "[offset:", "[ar:x]", "[Verse]", "caption:", "bpm: 1", "lyrics:", ",", ";", "\t", '"',
     "\n", "\r\n", "File", "BPM", "song1.wav", "{", "}", "[", "]", "../", "\\", "\0", "\ufeff", "♯", "C", "m", "/",
     "1e999"]
)  # fmt: skip
texts = st.one_of(st.text(max_size=60), st.lists(st.one_of(pieces, st.text(max_size=4)), max_size=12).map("".join))
beginnings = st.sampled_from(
    [b"", b"RIFF", b"RIFF\0\0\0\0WAVE", b"FORM\0\0\0\0AIFF", b"fLaC\0\0\0\x22", b"OggS", b"ID3", b"\xff\xfb\x90d"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def attempt(function, *arguments) -> tuple:
    """Return (value, None), or (None, message) of our own error; any other exception fails the test."""
    try:
        return function(*arguments), None
    except UserError as error:
        return None, str(error)


@quick
@given(st.binary(max_size=200))
def test_any_bytes_as_text(content):
    text, error = attempt(decode_text, content, "x.txt")
    if error is None:
        assert "\r" not in text
        assert "\0" not in text
    else:
        assert error.startswith("x.txt: ")


@quick
@given(st.sampled_from(FIELDS), values)
def test_any_value_of_any_field(field, raw):
    value, error = attempt(parse_field, field, raw)
    if error is not None:
        assert error.startswith(("is ", "has "))
        assert error.isprintable()
    if value is None:
        return
    assert json.loads(json.dumps(value)) == value
    if field == "bpm":
        assert 30 <= value <= 300
    if field == "keyscale":
        assert parse_key(value) == value
    if field == "language" and value != "instrumental":
        assert value in LANGUAGES
        assert parse_language(value) == value
    if field == "timesignature":
        assert value in ("2", "3", "4", "6")
    # Reading what was read changes nothing.
    assert parse_field(field, value) in (value, None)


@quick
@given(texts)
def test_any_lyrics(source):
    lyrics = parse_lyrics(source)
    assert not lyrics.text.startswith("\n")
    assert not lyrics.text.endswith("\n")
    seconds = [line.seconds for line in lyrics.timed_lines]
    assert seconds == sorted(seconds)
    assert all(time >= 0 for time in seconds)
    if not lyrics.removed:  # nothing but space at the ends of lines and of the text was taken
        assert lyrics.text == "\n".join(line.strip() for line in source.splitlines()).strip("\n")
    looks_like_caption(source)
    looks_like_key_values(source)


@quick
@given(texts)
def test_any_key_value_text(source):
    reading = read_key_values(source, "x.txt")
    assert set(reading.values) <= set(FIELDS)
    assert all(warning.startswith("x.txt: ") for warning in reading.warnings)


@quick
@given(st.one_of(texts, values.map(json.dumps)))
def test_any_json(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "x.json"
    path.write_bytes(text.encode("utf-8", "replace"))
    reading, error = attempt(read_json, path, "x.json", path.parent)
    if error is None:
        assert set(reading.values) <= set(FIELDS)
    else:
        assert error.startswith("x.json: ")


@quick
@given(texts, st.booleans())
def test_any_csv(text, with_header):
    notes = []
    rows, error = attempt(lambda: list(read_rows("File,BPM,caption\n" * with_header + text, "x.csv", notes)))
    if error is None:
        assert all(row.number >= 1 for row in rows)
        assert all(note.isprintable() for note in notes)
    else:
        assert error.startswith("x.csv: ")


@quick
@given(st.one_of(texts, values.map(json.dumps), st.lists(values).map(lambda v: json.dumps({"samples": v}))))
def test_any_dataset_json(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "dataset"
    if not folder.exists():
        write_song(folder / "song1.wav", 0.1)
    (folder / "dataset.json").write_bytes(text.encode("utf-8", "replace"))
    imported, error = attempt(import_dataset_json, folder / "dataset.json", folder)
    if error is None:
        assert not imported.written or (folder / "song1.json").exists()
    else:
        assert error.startswith("dataset.json: ")


@quick
@given(texts)
def test_any_name_stays_inside_or_is_refused(name):
    root = Path("/tmp").resolve()
    found, error = attempt(inside, root / "songs", root / "songs" / "sub", name)
    assert error is not None or not found.startswith(("/", "../"))


@quick
@given(beginnings, st.binary(max_size=400))
def test_any_bytes_as_audio(tmp_path_factory, magic, content):
    path = tmp_path_factory.getbasetemp() / "x.mp3"
    path.write_bytes(magic + content)
    ogg.ogg_damage(magic + content)
    ogg.hash_packets(magic + content)
    stream = mpeg.walk(magic + content)
    mpeg.mpeg_damage(stream)
    mpeg.mpeg_warnings(stream)
    chunk_damage(path)
    flac_promise(path)
    found, error = attempt(probe, path, 1e8, True)
    assert error or found.frames > 0


@quick
@given(st.integers(1, 48000), st.integers(1, 3), st.lists(st.floats(width=32), max_size=300))
def test_any_samples(rate, channels, numbers):
    meter = Meter(rate, channels)
    meter.add(np.array(numbers[: len(numbers) // channels * channels], np.float32).reshape(-1, channels))
    measures = meter.result()
    if measures.finite:
        assert all(isinstance(warning, str) for warning in measure_warnings(measures, lossless=True))


@quick
@given(st.floats(0, 1e6), st.text())
def test_what_is_shown_can_be_shown(seconds, text):
    assert clock(seconds)
    assert printable(text).isprintable() or text == ""
    printable(text).encode("utf-8")
