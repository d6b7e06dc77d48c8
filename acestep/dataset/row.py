"""One song as a row: its prompts and its columns."""

import json
from typing import Any

import numpy as np

from acestep.dataset.schema import FRAMES_PER_SECOND
from acestep.models.conditioning import Prompt
from acestep.songs import Song


def song_prompts(song: Song) -> dict[str, Prompt]:
    """The prompts that training may draw for a song, by kind ("caption", "genre"); at least one.

    A kind that the song never draws is left out: the genre of a song whose genre ratio is 0, say.
    """
    texts = song.prompts()
    if song.prompt_override in texts:
        texts = {song.prompt_override: texts[song.prompt_override]}
    elif "caption" in texts and song.genre_ratio == 0:
        texts.pop("genre", None)
    elif "genre" in texts and song.genre_ratio == 100:
        texts.pop("caption", None)
    return {
        kind: Prompt(
            caption=text,
            lyrics=song.lyrics,
            language=song.language,
            duration=song.duration,
            bpm=song.bpm,
            keyscale=song.keyscale,
            timesignature=song.timesignature,
        )
        for kind, text in texts.items()
    }


def song_row(
    song: Song,
    prompts: dict[str, Prompt],
    conditions: dict[str, np.ndarray],
    mean: np.ndarray,
    std: np.ndarray,
) -> dict[str, Any]:
    """The columns of `acestep.dataset.schema.features`.

    Args:
        prompts, conditions: by kind; a condition is `[L, D]`.
        mean, std: of the posterior, `[frames, channels]`.
    """
    expected = song.duration * FRAMES_PER_SECOND
    # the scan's duration and the decoded audio may differ by a resampler's rounding, not by more
    if abs(mean.shape[0] - expected) > 2:
        raise AssertionError(f"{song.file_name}: {mean.shape[0]} frames for {song.duration} s")
    strings = {kind: prompt.strings() for kind, prompt in prompts.items()}
    return {
        "id": song.row_id,
        "song_id": song.song_id,
        "file_name": song.file_name,
        "start": song.start,
        "duration": song.duration,
        "frames": mean.shape[0],
        "caption": song.caption,
        "genre": song.genre,
        "lyrics": song.lyrics,
        "language": song.language,
        "bpm": song.bpm,
        "keyscale": song.keyscale,
        "timesignature": song.timesignature,
        "is_instrumental": song.is_instrumental,
        "custom_tag": song.custom_tag,
        "tag_position": song.tag_position,
        "prompt_override": song.prompt_override,
        "genre_ratio": song.genre_ratio,
        "sources": json.dumps(song.sources, ensure_ascii=False),
        "text_prompt": strings["caption"][0] if "caption" in strings else None,
        "genre_text_prompt": strings["genre"][0] if "genre" in strings else None,
        "lyric_prompt": next(iter(strings.values()))[1],
        "latents": mean,
        "latents_std": std,
        "encoder_hidden_states": conditions.get("caption"),
        "genre_encoder_hidden_states": conditions.get("genre"),
    }
