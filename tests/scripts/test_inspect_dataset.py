import json
import re

import pytest

from tests.songs.clips import write_song


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inspect") / "my songs"
    write_song(root / "a & <b>.wav", 12.0, seed=1)
    (root / "a & <b>.lyrics.txt").write_text("[Verse]\n[00:01.00]<script>alert(1)</script>\n[00:02.00]la\n")
    (root / "a & <b>.json").write_text('{"caption": "a \\"tune\\"", "bpm": 120, "key": "Am", "language": "en"}')
    write_song(root / "夜.flac", 3.0, seed=2)
    (root / "broken.mp3").write_bytes(b"x" * 1000)
    return root


def test_the_table_and_its_status(run_script, songs):
    process = run_script("inspect_dataset.py", "--data_dir", songs, "--width", "130", check=False)
    assert process.returncode == 1  # a song was skipped
    assert process.stderr == ""
    assert re.search(r"a & <b>.wav +0:12 +a \"tune\" +2 +120 +A minor +en +json, lyrics.txt", process.stdout)
    assert "broken.mp3: " in process.stdout
    assert run_script("inspect_dataset.py", "--data_dir", songs, "--allow_skips").returncode == 0


def test_json_alone_is_on_standard_output(run_script, songs, tmp_path):
    page = tmp_path / "report.html"
    process = run_script("inspect_dataset.py", "--data_dir", songs, "--json", "--html", page, check=False)
    assert process.returncode == 1
    content = json.loads(process.stdout)
    song, other = content["songs"]
    assert (song["file_name"], song["bpm"], song["keyscale"], song["language"]) == ("a & <b>.wav", 120, "A minor", "en")
    assert song["caption"] == 'a "tune"'
    assert song["lyrics"] == "[Verse]\n<script>alert(1)</script>\nla"
    assert song["sources"]["bpm"] == "a & <b>.json"
    assert song["warnings"] == []
    assert {"custom_tag", "duration", "genre", "id", "is_instrumental", "prompt_override", "timesignature"} <= set(song)
    assert other["warnings"]
    assert content["skipped"][0]["file_name"] == "broken.mp3"
    assert content["skipped"][0]["reason"]
    assert str(songs.parent) not in process.stdout
    assert "wrote" in process.stderr


def test_the_page_is_one_file_with_players_waveforms_and_texts(run_script, songs, tmp_path):
    page = tmp_path / "out" / "report.html"
    run_script("inspect_dataset.py", "--data_dir", songs, "--html", page, "--html_preview_seconds", 2, "--allow_skips")
    text = page.read_text(encoding="utf-8")
    assert text.count('<audio controls preload="metadata" src="data:audio/mpeg;base64,') == 2
    assert text.count('<svg class="waveform"') == 2
    assert "a &amp; &lt;b&gt;.wav" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text
    assert "broken.mp3" in text
    assert 'data-seconds="2.00"' in text
    # Nothing is fetched from anywhere: no address but those of the data inside.
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "http" not in text
    assert str(songs.parent) not in text
    run_script("inspect_dataset.py", "--data_dir", songs, "--html", page, "--html_preview_seconds", 0, "--allow_skips")
    assert "<audio" not in page.read_text(encoding="utf-8")


def test_a_dataset_json_goes_out_and_in(run_script, songs, tmp_path):
    file = tmp_path / "dataset.json"
    run_script("inspect_dataset.py", "--data_dir", songs, "--export_json", file, "--allow_skips")
    other = tmp_path / "copy"
    write_song(other / "a & <b>.wav", 12.0, seed=1)
    process = run_script("inspect_dataset.py", "--data_dir", other, "--import_json", file, "--json", check=False)
    assert process.returncode == 1  # the other sample has no song here
    assert json.loads(process.stdout)["songs"][0]["caption"] == 'a "tune"'
    assert "not taken: " in process.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data_dir", "/nowhere/at/all"], "no such folder"),
        (["--data_dir", "/", "--genre_ratio", "200"], "--genre_ratio is 200"),
        (["--data_dir", "/", "--html_preview_seconds", "-1"], "--html_preview_seconds is -1"),
    ],
)
def test_errors_are_one_line_and_status_2(run_script, arguments, message):
    process = run_script("inspect_dataset.py", *arguments, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert message in process.stderr
    assert process.stderr.count("\n") == 1
