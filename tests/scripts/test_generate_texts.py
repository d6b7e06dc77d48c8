"""generate.py feeds the strings that training was fed: both read texts by the same rules."""

import json

import numpy as np
import pytest
import soundfile

from acestep.dataset.row import song_prompts
from acestep.errors import UserError
from acestep.prompts import make_request
from acestep.songs import SongOptions, scan_songs

LRC = "[ar: Me]\n[00:01.00]hello world\n[00:05.00]again\n\n[Chorus]\n[00:07.00]la <00:07.50>la\n\n"


def request_of(folder=None, **values):
    return make_request({"prompt": "p", **values}, "--{}".format, folder)


@pytest.mark.parametrize("lyrics", [LRC, "plain words\n", "[inst]", "  \n"])
def test_a_song_and_its_own_texts_give_the_same_strings(tmp_path, lyrics):
    audio = np.sin(np.arange(480_000) / 50)[:, None] * [0.3, 0.2]
    soundfile.write(tmp_path / "song.wav", audio, 48_000)
    (tmp_path / "song.lyrics.txt").write_text(lyrics, encoding="utf-8")
    described = {
        "caption": " a song ",
        "keyscale": "Dmaj",
        "timesignature": "3/4",
        "bpm": "127.6",
        "language": "Japanese",
    }
    (tmp_path / "song.json").write_text(json.dumps(described), encoding="utf-8")
    song = scan_songs(tmp_path, SongOptions(all_instrumental=True, decode_workers=1)).songs[0]
    trained = song_prompts(song)["caption"].strings()
    texts = {key: described[key] for key in ("keyscale", "timesignature", "bpm", "language")}
    request = request_of(prompt=" a song ", lyrics_file=str(tmp_path / "song.lyrics.txt"), **texts)
    assert request.texts(song.duration).strings() == trained


def test_an_instrumental_language_is_said_as_training_says_it():
    request = request_of(language="instrumental")
    assert (request.lyrics, request.language) == ("[Instrumental]", "unknown")


def test_empty_lyrics_are_instrumental_and_nonsense_is_refused():
    assert request_of(lyrics="").lyrics == "[Instrumental]"
    for fields, message in (
        ({"keyscale": "H sharp"}, "--keyscale"),
        ({"timesignature": "7/9"}, "--timesignature"),
        ({"prompt": "  "}, "--prompt is empty"),
    ):
        with pytest.raises(UserError, match=message):
            request_of(**fields)
