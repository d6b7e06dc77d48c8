"""What the DiT is conditioned on: the pipeline's own functions, called one encoder at a time.

The text encoder and the condition encoder are never needed together: `encode_texts` ends with states that can be kept,
`encode_condition` begins with them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

MAX_TEXT_TOKENS = 256
MAX_LYRIC_TOKENS = 2048
TIMBRE_FRAMES = 750  # 30 s, what the pipeline feeds the timbre encoder without a reference song


@dataclass(frozen=True)
class Prompt:
    """The texts and tags of one song as the pipeline takes them.

    Attributes:
        caption: the description, with the trigger tag where there is one.
        lyrics: with structure tags; `[Instrumental]` without words.
        duration: seconds of audio; the prompt shows whole ones.
    """

    caption: str
    lyrics: str
    language: str
    duration: float
    bpm: int | None = None
    keyscale: str = ""
    timesignature: str = ""

    def strings(self) -> tuple[str, str]:
        """The two texts that are tokenized, exactly as `AceStepPipeline` formats them: prompt and lyrics."""
        return _formatter()._format_prompt(
            prompt=self.caption,
            lyrics=self.lyrics,
            vocal_language=self.language,
            audio_duration=self.duration,
            bpm=self.bpm,
            keyscale=self.keyscale,
            timesignature=self.timesignature,
        )

    def token_counts(self, tokenizer: Any) -> tuple[int, int]:
        """Tokens of prompt and lyrics before they are cut at `MAX_TEXT_TOKENS` and `MAX_LYRIC_TOKENS`."""
        text, lyrics = self.strings()
        return len(tokenizer(text).input_ids), len(tokenizer(lyrics).input_ids)


@torch.no_grad()
def encode_texts(prompt: Prompt, text_encoder: nn.Module, tokenizer: Any) -> dict[str, torch.Tensor]:
    """The text encoder's part.

    Returns:
        `text_hidden_states` `[L_text, D_text]` (last hidden states) and `lyric_hidden_states` `[L_lyric, D_text]`
        (token embeddings), both unpadded, in the encoder's dtype and on its device.
    """
    pipeline = _text_pipeline(text_encoder, tokenizer)
    text, _, lyrics, _ = pipeline.encode_prompt(
        prompt=prompt.caption,
        lyrics=prompt.lyrics,
        device=text_encoder.device,
        vocal_language=prompt.language,
        audio_duration=prompt.duration,
        bpm=prompt.bpm,
        keyscale=prompt.keyscale,
        timesignature=prompt.timesignature,
        max_text_length=MAX_TEXT_TOKENS,
        max_lyric_length=MAX_LYRIC_TOKENS,
    )
    return {"text_hidden_states": text[0], "lyric_hidden_states": lyrics[0]}


@torch.no_grad()
def encode_condition(texts: dict[str, torch.Tensor], condition_encoder: nn.Module) -> torch.Tensor:
    """The condition encoder's part: lyrics, timbre of silence, text, packed without padding.

    Args:
        texts: what `encode_texts` returned, on any device.

    Returns:
        `[L_lyric + 1 + L_text, D]` in the encoder's dtype, on its device.
    """
    device, dtype = condition_encoder.device, condition_encoder.dtype
    text = texts["text_hidden_states"][None].to(device, dtype)
    lyrics = texts["lyric_hidden_states"][None].to(device, dtype)
    condition, _ = condition_encoder(
        text_hidden_states=text,
        text_attention_mask=torch.ones(text.shape[:2], dtype=torch.bool, device=device),
        lyric_hidden_states=lyrics,
        lyric_attention_mask=torch.ones(lyrics.shape[:2], dtype=torch.bool, device=device),
        refer_audio_acoustic_hidden_states_packed=condition_encoder.silence_latent[:, :TIMBRE_FRAMES].to(device, dtype),
        refer_audio_order_mask=torch.zeros(1, dtype=torch.long, device=device),
    )
    return condition[0]


def context_latents(silence_latent: torch.Tensor, frames: int) -> torch.Tensor:
    """What stands beside the noisy latents: silence and a chunk mask of ones ("generate everything").

    Args:
        silence_latent: `[1, length, C]`; repeated where it is shorter than the song, as the pipeline does.

    Returns:
        `[frames, 2 C]`.
    """
    repeats = -(-frames // silence_latent.shape[1])
    silence = silence_latent[0].repeat(repeats, 1)[:frames] if repeats > 1 else silence_latent[0, :frames]
    return torch.cat([silence, torch.ones_like(silence)], dim=-1)


def _text_pipeline(text_encoder: nn.Module | None, tokenizer: Any) -> Any:
    # The pipeline's methods need only these two of its components.
    from diffusers import AceStepPipeline

    return AceStepPipeline(
        vae=None,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=None,
        condition_encoder=None,
        scheduler=None,
    )


def _formatter() -> Any:
    return _text_pipeline(None, None)
