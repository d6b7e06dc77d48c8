"""A tiny ACE-Step pipeline with the released models' geometry and seeded random weights, for tests and the demo.

What the rest of the software can see is real: 48 kHz stereo, 1920 samples a latent frame, 64 latent channels, patches
of 2 frames, sliding and full attention in turn, a tokenizer that ends every text with `<|endoftext|>`. Only widths and
depths are small, and every one of them can be chosen.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
    AceStepPipeline,
    AceStepTransformer1DModel,
    AutoencoderOobleck,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.ace_step.pipeline_ace_step import DEFAULT_DIT_INSTRUCTION, SFT_GEN_PROMPT
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

SAMPLE_RATE = 48_000
DOWNSAMPLING_RATIOS = (2, 4, 4, 6, 10)
SILENCE_FRAMES = 15_000
END_OF_TEXT = "<|endoftext|>"
VARIANTS = {  # name -> (model_version, is_turbo)
    "base": ("base", False),
    "sft": ("sft", False),
    "turbo": ("turbo", True),
    "xl": ("xl_base", False),
}


def tiny_components(
    seed: int = 0,
    variant: str = "base",
    *,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_hidden_layers: int = 4,
    num_attention_heads: int | None = None,
    num_key_value_heads: int = 2,
    head_dim: int = 8,
    encoder_hidden_size: int = 32,
    num_lyric_encoder_hidden_layers: int = 2,
    num_timbre_encoder_hidden_layers: int = 1,
    text_hidden_size: int = 24,
    num_text_layers: int = 2,
    sliding_window: int = 128,
    latent_channels: int = 64,
    decoder_channels: int = 4,
    downsampling_ratios: Sequence[int] = DOWNSAMPLING_RATIOS,
    vae: AutoencoderOobleck | None = None,
) -> dict[str, Any]:
    """The components of an `AceStepPipeline`, by name; the same seed and sizes give the same weights.

    Args:
        seed: of the random weights; the global random state is left as it was.
        variant: `base`, `sft`, `turbo`, or `xl`, whose condition encoder is narrower than the transformer.
        hidden_size: width of the transformer; `encoder_hidden_size` by default, half as much again for `xl`.
        intermediate_size: width of the transformer's MLP, twice `hidden_size` by default.
        num_hidden_layers: transformer layers; even ones attend within the window, odd ones everywhere.
        num_attention_heads: `hidden_size / head_dim` by default.
        encoder_hidden_size: width of the condition encoder and of the 5 Hz tokenizer and detokenizer.
        text_hidden_size, num_text_layers: of the text encoder; the width must be a multiple of 4.
        sliding_window: reach in tokens (of 2 latent frames each) to either side.
        latent_channels: 64 in the released models; fewer make the VAE's encoder, whose first layers are twice as wide
            as this at 48 kHz, and so its encoding, much cheaper.
        decoder_channels: width of the VAE's decoder.
        downsampling_ratios: their product is the number of samples a latent frame.
        vae: in place of one with random weights; it must have `latent_channels`.

    Raises:
        ValueError: for an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; expected one of {', '.join(VARIANTS)}.")
    model_version, is_turbo = VARIANTS[variant]
    if hidden_size is None:
        hidden_size = encoder_hidden_size * 3 // 2 if variant == "xl" else encoder_hidden_size
    tokenizer = tiny_tokenizer()
    attention = {"num_key_value_heads": num_key_value_heads, "head_dim": head_dim, "sliding_window": sliding_window}
    encoder_attention = attention | {
        "hidden_size": encoder_hidden_size,
        "intermediate_size": 2 * encoder_hidden_size,
        "num_attention_heads": encoder_hidden_size // head_dim,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = vae or AutoencoderOobleck(
            encoder_hidden_size=2 * latent_channels,  # its last layer gives the posterior's mean and scale
            downsampling_ratios=list(downsampling_ratios),
            channel_multiples=[1] * len(downsampling_ratios),
            decoder_channels=decoder_channels,
            decoder_input_channels=latent_channels,
            audio_channels=2,
            sampling_rate=SAMPLE_RATE,
        )
        text_encoder = Qwen3Model(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=text_hidden_size,
                intermediate_size=2 * text_hidden_size,
                num_hidden_layers=num_text_layers,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=text_hidden_size // 2,
                max_position_embeddings=4096,
                # the library's 0.02 suits wide models; here the states would hardly depend on the text
                initializer_range=0.2,
            )
        )
        transformer = AceStepTransformer1DModel(
            hidden_size=hidden_size,
            intermediate_size=intermediate_size or 2 * hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads or hidden_size // head_dim,
            in_channels=3 * latent_channels,  # noisy latents beside the context: silence latents, chunk mask
            audio_acoustic_hidden_dim=latent_channels,
            encoder_hidden_size=encoder_hidden_size,
            is_turbo=is_turbo,
            model_version=model_version,
            **attention,
        )
        condition_encoder = AceStepConditionEncoder(
            text_hidden_dim=text_hidden_size,
            timbre_hidden_dim=latent_channels,
            num_lyric_encoder_hidden_layers=num_lyric_encoder_hidden_layers,
            num_timbre_encoder_hidden_layers=num_timbre_encoder_hidden_layers,
            **encoder_attention,
        )
        audio_tokenizer = AceStepAudioTokenizer(
            audio_acoustic_hidden_dim=latent_channels,
            fsq_dim=encoder_hidden_size,
            num_attention_pooler_hidden_layers=1,
            **encoder_attention,
        )
        audio_token_detokenizer = AceStepAudioTokenDetokenizer(
            audio_acoustic_hidden_dim=latent_channels, num_attention_pooler_hidden_layers=1, **encoder_attention
        )
    condition_encoder.silence_latent.copy_(encode_silence(vae))
    components = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "transformer": transformer,
        "condition_encoder": condition_encoder,
        # the pipeline computes its own shifted schedule and feeds timesteps in [0, 1]
        "scheduler": FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
        "audio_tokenizer": audio_tokenizer,
        "audio_token_detokenizer": audio_token_detokenizer,
    }
    for component in components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    return components


def save_tiny_pipeline(components: dict[str, Any], path: str | Path) -> None:
    """Write the components as a folder that `diffusers.AceStepPipeline.from_pretrained` opens."""
    AceStepPipeline(**components).save_pretrained(path)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that ends every text with `<|endoftext|>`, as Qwen3-Embedding's does.

    Every text can be tokenized. The merges are learned from the prompt's own fixed words, so that, as with the real
    tokenizer, a prompt leaves most of its 256 tokens to the caption.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator([_tokenizer_text()], trainer)
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, model_max_length=32_768
    )


def _tokenizer_text() -> str:
    metas = AceStepPipeline._build_metadata_string(bpm=120, keyscale="C major", timesignature="4", audio_duration=10)
    prompt = SFT_GEN_PROMPT.replace(END_OF_TEXT, "").format(DEFAULT_DIT_INSTRUCTION, "", metas)
    words = (
        "major minor bright slow fast soft warm piano drums bass synth guitar melody with and a the [verse] [chorus]"
    )
    return f"{prompt}# Languages\nen\n\n# Lyric\n[Instrumental] {words}"


@torch.no_grad()
def encode_silence(vae: AutoencoderOobleck, frames: int = SILENCE_FRAMES) -> torch.Tensor:
    """The VAE's posterior mean of digital silence, `[1, frames, channels]`.

    Equal to encoding all of it at once: away from its two ends, silence encodes to one constant frame, so only as much
    is encoded as the ends reach.
    """
    reach = _encoder_reach_in_frames(vae)
    short = min(frames, 2 * reach + 1)
    audio = torch.zeros(1, vae.config.audio_channels, short * vae.hop_length, dtype=vae.dtype, device=vae.device)
    mean = vae.encode(audio).latent_dist.mean.transpose(1, 2)  # [1, short, channels]
    if short == frames:
        return mean
    middle = mean[:, reach : reach + 1].expand(-1, frames - 2 * reach, -1)
    return torch.cat([mean[:, :reach], middle, mean[:, reach + 1 :]], dim=1)


def _encoder_reach_in_frames(vae: AutoencoderOobleck) -> int:
    """How many latent frames from either end the encoder's zero padding reaches, rounded up."""
    reach, step = 3, 1  # in samples; the first convolution reaches 3
    for stride in vae.config.downsampling_ratios:
        # three residual units, 7 taps each with dilations 1, 3 and 9, then a convolution of 2 strides
        reach += step * (3 * (1 + 3 + 9) + 2 * stride)
        step *= stride
    return math.ceil((reach + step) / step)
