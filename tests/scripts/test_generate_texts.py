"""generate.py feeds the strings that training was fed: both read texts by the same rules."""

import importlib.util
import json

import numpy as np
import pytest
import soundfile

from acestep.dataset.row import song_prompts
from acestep.errors import UserError
from acestep.models.conditioning import Prompt
from acestep.songs import SongOptions, scan_songs
from tests.conftest import ROOT

LRC = "[ar: Me]\n[00:01.00]hello world\n[00:05.00]again\n\n[Chorus]\n[00:07.00]la <00:07.50>la\n\n"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate_script", ROOT / "scripts" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options(generate, **fields):
    return generate.GenerateOptions(pretrained_model_name_or_path="m", **fields)


@pytest.mark.parametrize("lyrics", [LRC, "plain words\n", "[inst]", "  \n"])
def test_a_song_and_its_own_texts_give_the_same_strings(generate, tmp_path, lyrics):
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
    texts = generate.read_texts(
        options(
            generate,
            prompt=" a song ",
            lyrics_file=str(tmp_path / "song.lyrics.txt"),
            **{key: described[key] for key in ("keyscale", "timesignature", "bpm")},
            language="Japanese",
        )
    )
    prompt = Prompt(
        texts["prompt"],
        texts["lyrics"],
        texts["vocal_language"],
        song.duration,
        texts["bpm"],
        texts["keyscale"],
        texts["timesignature"],
    )
    assert prompt.strings() == trained


def test_empty_lyrics_are_instrumental_and_nonsense_is_refused(generate):
    assert generate.read_texts(options(generate, prompt="p", lyrics=""))["lyrics"] == "[Instrumental]"
    for fields, message in (({"keyscale": "H sharp"}, "--keyscale"), ({"timesignature": "7/9"}, "--timesignature")):
        with pytest.raises(UserError, match=message):
            generate.read_texts(options(generate, prompt="p", **fields))
