"""Files of prompts: what may stand in them, what is said of what may not, and that YAML and JSONL mean the same."""

import json

import pytest

from acestep.errors import UserError
from acestep.prompts import read_preview_prompts, read_prompts

YAML = """\
- prompt: dream pop, female voice
  lyrics_file: words.txt
  language: no          # Norwegian, not a falsehood
  bpm: 127.6
  keyscale: Dmaj
  timesignature: 3/4
  duration: 30
  seed: 010
- name: drums
  prompt: drums
  lyrics: |
    [Verse 1]
    la la
  num_inference_steps: 8
  shift: 3
  guidance_scale: 1.5
"""


@pytest.fixture
def prompts(tmp_path):
    """Write a file of prompts and read it."""

    def read(text, name="prompts.yaml", reader=read_prompts, **options):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return reader(tmp_path / name, **options)

    (tmp_path / "words.txt").write_text("[00:01.00]hello\n[00:02.00]again\n", encoding="utf-8")
    return read


def test_a_list_of_prompts_is_read_by_the_rules_of_songs(prompts):
    first, second = prompts(YAML)
    assert (first.name, first.prompt, first.lyrics) == (
        "01-dream-pop-female-voice",
        "dream pop, female voice",
        "hello\nagain",
    )
    assert (first.language, first.bpm, first.keyscale, first.timesignature) == ("no", 128, "D major", "3")
    assert (first.duration, first.seed, first.num_inference_steps) == (30.0, 10, None)
    assert (second.name, second.lyrics, second.language, second.seed) == ("drums", "[Verse 1]\nla la", "unknown", 0)
    assert (second.num_inference_steps, second.shift, second.guidance_scale) == (8, 3.0, 1.5)


def test_jsonl_means_what_yaml_means(prompts):
    entries = [
        {
            "prompt": "dream pop, female voice",
            "lyrics_file": "words.txt",
            "language": "no",
            "bpm": 127.6,
            "keyscale": "Dmaj",
            "timesignature": 3,
            "duration": 30,
            "seed": 10,
        },
        {
            "name": "drums",
            "prompt": "drums",
            "lyrics": "[Verse 1]\nla la",
            "num_inference_steps": 8,
            "shift": 3,
            "guidance_scale": 1.5,
            "bpm": None,
        },
    ]
    text = "\n".join(json.dumps(entry) for entry in entries) + "\n\n"
    assert prompts(text, "prompts.jsonl") == prompts(YAML)


def test_what_holds_for_all_gives_way_to_what_a_prompt_says(prompts):
    defaults = {"duration": 12.0, "seed": 5, "lyrics_file": "nowhere.txt", "bpm": None}
    (own,) = prompts("- {prompt: p, seed: 7, lyrics: la}", defaults=defaults)
    assert (own.duration, own.seed, own.lyrics) == (12.0, 7, "la")
    with pytest.raises(UserError, match=r"nowhere\.txt: cannot be read"):
        prompts("- {prompt: p}", defaults=defaults)


def test_prompts_have_names_of_their_own(prompts):
    names = [request.name for request in prompts("- prompt: (...)\n- prompt: x\n- prompt: X!\n")]
    assert names == ["01", "02-x", "03-x"]
    (long,) = prompts(f"- prompt: {'wonderful ' * 30}")
    assert long.name == "01-wonderful-wonderful-wonderful-wonderful"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompt; expected a list"),
        ("[]", "holds no prompt"),
        ("prompt: x", "found a mapping; expected a list"),
        ("- just words", "prompt 1: found a text; expected pairs"),
        ("- prompt: x\n- promt: y", r"prompt 2: unknown key 'promt'\. Did you mean 'prompt'\?"),
        ("- prompt: x\n  zzz: 1", r"prompt 1: unknown key 'zzz'\. Known are name, prompt, lyrics"),
        ("- prompt: x\n  prompt: y", "'prompt' is there 2 times"),
        ("- lyrics: la", r'prompt 1: "prompt" is empty'),
        ("- prompt: x\n  bpm: fast", r'prompt 1: "bpm" is "fast"; expected a number between 30 and 300'),
        ("- prompt: x\n  seed: 1.5", r'"seed" is "1\.5"; expected a whole number'),
        ("- prompt: x\n  seed: -1", r'"seed" is -1; expected at least 0'),
        ("- prompt: x\n  duration: nan", r'"duration" is nan; expected more than 0'),
        ("- prompt: x\n  duration: long", r'"duration" is "long"; expected a number'),
        ("- prompt: x\n  duration: 601", r'"duration" is 601\.0; expected more than 0 and at most 600'),
        ("- prompt: x\n  lyrics: {a: 1}", r'"lyrics" is a mapping; expected one value'),
        ("- prompt: x\n  seed: [1, 2]", r'"seed" is \["1", "2"\]; expected a whole number'),
        ("- prompt: x\n  lyrics: la\n  lyrics_file: words.txt", '"lyrics_file" and .*"lyrics" are both there'),
        ("- prompt: x\n  lyrics_file: other.txt", r'"lyrics_file" .*other\.txt: cannot be read'),
        ("- prompt: x\n  name: ../x", r"\"name\" is '\.\./x'; expected the name of a file"),
        ("- prompt: x\n  name: .x", '"name" is'),
        ("- prompt: x\n  name: a\n- prompt: y\n  name: A", "prompt 2: \"name\" is 'A', as that of prompt 1 is"),
        ("- prompt: x\n  task: remix\n  source_audio: a.wav", '"task" is remix; expected one of text2music, repaint'),
        ("- prompt: x\n  task: cover", 'is cover, which needs a source: .*"source_audio"'),
        ("- prompt: x\n  source_audio: a.wav", '"source_audio" needs a task that uses it'),
        ("- prompt: x\n  repaint_end: 3", '"repaint_end" belongs to the task repaint, and the task is text2music'),
        (
            "- prompt: x\n  task: repaint\n  source_audio: a.wav\n  repaint_start: 3\n  repaint_end: 2",
            '"repaint_end" is 2; expected more than .*"repaint_start" .3. by at least 0.04 s',
        ),
        ("- prompt: x\n  task: cover\n  source_audio: a.wav\n  duration: 3", "keeps the length of its source"),
        ("- {", "cannot be read as a YAML file"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(prompts, text, message):
    with pytest.raises(UserError, match=message) as refused:
        prompts(text)
    assert "prompts.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "x"}\n{"prompt": ', "line 2: cannot be read as JSON"),
        ('{"prompt": "x", "prompt": "y"}', "line 1: 'prompt' is there 2 times"),
        ('{"prompt": "x", "seed": true}', '"seed" is true; expected a whole number'),
        ('{"prompt": "x", "bpm": true}', '"bpm" is true; expected a number'),
        ('["prompt"]', "prompt 1: found a list"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(prompts, text, message):
    with pytest.raises(UserError, match=message):
        prompts(text, "prompts.jsonl")


def test_another_kind_of_file_is_refused(prompts, tmp_path):
    with pytest.raises(UserError, match=r"prompts\.csv: ends with '\.csv'; expected \.yaml, \.yml or \.jsonl"):
        prompts("prompt\nx\n", "prompts.csv")
    for name in ("nowhere.yaml", "nowhere.jsonl"):
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            read_prompts(tmp_path / name)


def test_previews_begin_from_texts_alone(prompts):
    assert prompts(YAML, reader=read_preview_prompts) == prompts(YAML)
    with pytest.raises(UserError, match='prompt 1: "reference_audio" has no meaning for previews'):
        prompts("- {prompt: x, reference_audio: a.wav}", reader=read_preview_prompts)


def test_paths_are_relative_to_the_file(prompts, tmp_path):
    (request,) = prompts("- {prompt: x, task: cover, source_audio: a.wav, reference_audio: /b.wav}")
    assert request.source_audio == tmp_path / "a.wav"
    assert str(request.reference_audio) == "/b.wav"
