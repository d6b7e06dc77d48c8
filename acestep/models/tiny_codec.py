"""The tiny model's VAE: a lapped transform written into the convolutions of `AutoencoderOobleck`.

A VAE that reconstructs music is not trained in a minute. But the encoder's strided convolutions can *be* a known good
codec: three low-pass filters that go from 48 to 1.5 kHz, then a modified discrete cosine transform (MDCT) of 60 bands
12.5 Hz wide, of which the mid (left + right) and side (left - right) signals keep their lowest. The decoder holds its
inverse. Of what lies above, the last 8 latents say how strong it is: two bands, squared by the encoder's activations,
at four moments of a frame. The decoder has to learn what such beats sound like.

A channel of a layer is made linear by a large `beta` of its Snake activation, `x + sin(alpha x)**2 / beta`; a residual
unit whose last weights are zero passes its input on.
"""

import numpy as np
import torch
from diffusers import AutoencoderOobleck
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckEncoder, OobleckResidualUnit, Snake1d
from torch import nn

LATENT_CHANNELS = 64
BANDS = 60  # of the transform: 1.5 kHz / 2 in steps of 12.5 Hz, one new set every 40 ms
MID_BANDS = tuple(range(1, 49))
SIDE_BANDS = tuple(range(16, 24))
LINEAR_LATENTS = len(MID_BANDS) + len(SIDE_BANDS)
DOWNSAMPLING_RATIOS = (2, 4, 4, 6, 10)
CHANNEL_MULTIPLES = (1, 1, 1, 1, 4)
DECODER_CHANNELS = 16
POSTERIOR_STD = 0.1
_PHASES = 6  # samples at 1.5 kHz side by side at 250 Hz
_LINEAR = 14.0  # log(beta): the activation adds less than 1e-6
_LOW_PASS_LAYERS = 3
# band-passes of 7 taps at 48 kHz, about 3 to 9 kHz and above 12 kHz
_BEAT_BANDS = ((-0.1, -0.25, 0.0, 0.7, 0.0, -0.25, -0.1), (0.12, -0.48, 1.0, -1.28, 1.0, -0.48, 0.12))
_MOMENTS = (LATENT_CHANNELS - LINEAR_LATENTS) // len(_BEAT_BANDS)


def new_codec() -> AutoencoderOobleck:
    """An `AutoencoderOobleck` of the codec's shape with random weights."""
    return AutoencoderOobleck(
        encoder_hidden_size=2 * LATENT_CHANNELS,
        downsampling_ratios=list(DOWNSAMPLING_RATIOS),
        channel_multiples=list(CHANNEL_MULTIPLES),
        decoder_channels=DECODER_CHANNELS,
        decoder_input_channels=LATENT_CHANNELS,
        audio_channels=2,
        sampling_rate=48_000,
    )


def new_narrow_encoder() -> OobleckEncoder:
    """The transform's encoder in as few channels as it needs: a tenth of the arithmetic, the same result (`widen`)."""
    encoder = OobleckEncoder(4, 2, list(DOWNSAMPLING_RATIOS), [1, 1, 1, 4, 16])
    encoder.conv2 = nn.utils.weight_norm(nn.Conv1d(LATENT_CHANNELS, 2 * LATENT_CHANNELS, 3, padding=1))
    with torch.no_grad():
        _silence_residual_units(encoder)
        for activation in (*(block.snake1 for block in encoder.block), encoder.snake1):
            activation.beta.fill_(_LINEAR)
        # the beats' two channels are squared instead: x + 4 sin(8 x)**2, of which later layers keep the slow part
        encoder.block[0].snake1.alpha[:, 2:] = float(np.log(8))
        encoder.block[0].snake1.beta[:, 2:] = float(np.log(1 / 4))

        weight = torch.zeros_like(encoder.conv1.weight_v)
        weight[0, :, 3] = 0.5  # mid
        weight[1, :, 3] = torch.tensor([0.5, -0.5])  # side
        weight[2:] = 0.5 * torch.tensor(_BEAT_BANDS)[:, None]
        _set_weight(encoder.conv1, weight)
        for block, ratio in zip(encoder.block[:_LOW_PASS_LAYERS], DOWNSAMPLING_RATIOS, strict=False):
            _set_weight(block.conv1, torch.eye(4)[:, :, None] * _low_pass(ratio))
        weight = torch.zeros_like(encoder.block[3].conv1.weight_v)
        _lay_side_by_side(weight)
        for band in range(2):
            weight[2 * _PHASES + band, 2 + band, _PHASES // 2 : -_PHASES // 2] = 1 / _PHASES
        _set_weight(encoder.block[3].conv1, weight)
        weight = torch.zeros_like(encoder.block[4].conv1.weight_v)
        weight[:LINEAR_LATENTS] = _transform(weight.shape[1])
        for band in range(2):
            moments = slice(LINEAR_LATENTS + band * _MOMENTS, LINEAR_LATENTS + (band + 1) * _MOMENTS)
            weight[moments, 2 * _PHASES + band] = _moments()
        _set_weight(encoder.block[4].conv1, weight)
        weight = torch.zeros_like(encoder.conv2.weight_v)
        weight[:LATENT_CHANNELS, :, 1] = torch.eye(LATENT_CHANNELS)
        bias = torch.zeros(2 * LATENT_CHANNELS)
        bias[LATENT_CHANNELS:] = float(np.log(np.expm1(POSTERIOR_STD)))  # the posterior's std is softplus of this
        _set_weight(encoder.conv2, weight, bias)
    return encoder


def write_inverse_transform(decoder: nn.Module) -> None:
    """Give `new_codec`'s decoder the inverse of the encoder's transform; its other channels start silent."""
    with torch.no_grad():
        _silence_residual_units(decoder)
        decoder.block[0].snake1.beta[:, :LINEAR_LATENTS] = _LINEAR
        decoder.block[1].snake1.beta[:, : 2 * _PHASES] = _LINEAR
        for block in decoder.block[2:]:
            block.snake1.beta[:, :2] = _LINEAR
        decoder.snake1.beta[:, :2] = _LINEAR

        weight = torch.zeros_like(decoder.conv1.weight_v)
        weight[:, :, 3] = torch.eye(LATENT_CHANNELS)
        _set_weight(decoder.conv1, weight)
        weight = _kept_random(decoder.block[0].conv_t1, LINEAR_LATENTS)
        weight[LINEAR_LATENTS:, : 2 * _PHASES] = 0
        weight[:LINEAR_LATENTS] = _transform(weight.shape[1]) / _low_pass_gain()[:, None, None] ** 2
        _set_weight(decoder.block[0].conv_t1, weight)
        weight = _kept_random(decoder.block[1].conv_t1, 2 * _PHASES)
        weight[2 * _PHASES :, :2] = 0
        _lay_side_by_side(weight)
        _set_weight(decoder.block[1].conv_t1, weight)
        for block, ratio in zip(decoder.block[2:], reversed(DOWNSAMPLING_RATIOS[:_LOW_PASS_LAYERS]), strict=True):
            weight = _kept_random(block.conv_t1, 2)
            weight[2:, :2] = 0
            weight[0, 0] = weight[1, 1] = ratio * _low_pass(ratio)
            _set_weight(block.conv_t1, weight)
        weight = 0.1 * _kept_random(decoder.conv2, 0)
        weight[:, :2] = 0
        weight[:, :2, 3] = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # mid and side to left and right
        _set_weight(decoder.conv2, weight)


def widen(narrow: OobleckEncoder, wide: OobleckEncoder) -> None:
    """Copy a narrow encoder into a wide one that computes the same: the channels in excess stay at zero."""
    wide_modules = dict(wide.named_modules())
    with torch.no_grad():
        for name, module in narrow.named_modules():
            target = wide_modules[name]
            if isinstance(module, nn.Conv1d):
                weight = torch.zeros_like(target.weight_v)
                weight[tuple(slice(size) for size in module.weight_v.shape)] = _weight(module)
                bias = torch.zeros_like(target.bias)
                bias[: module.bias.numel()] = module.bias
                _set_weight(target, weight, bias)
            elif isinstance(module, Snake1d):
                for parameter, source in ((target.alpha, module.alpha), (target.beta, module.beta)):
                    parameter.zero_()
                    parameter[:, : source.shape[1]] = source


def scale_latents(encoder: OobleckEncoder, decoder: nn.Module, factors: torch.Tensor) -> None:
    """Multiply the posterior's mean by `factors`, `[channels]`, and undo it in the decoder's first layer."""
    with torch.no_grad():
        weight, bias = _weight(encoder.conv2), encoder.conv2.bias.clone()
        weight[: factors.numel()] *= factors[:, None, None]
        bias[: factors.numel()] *= factors
        _set_weight(encoder.conv2, weight, bias)
        _set_weight(decoder.conv1, _weight(decoder.conv1) / factors[None, :, None], decoder.conv1.bias.clone())


def _weight(conv: nn.Module) -> torch.Tensor:
    return torch._weight_norm(conv.weight_v, conv.weight_g, 0).clone()


def _set_weight(conv: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Set a weight-normalised convolution's weight, and its bias (zeros for None)."""
    norm = weight.flatten(1).norm(dim=1).view_as(conv.weight_g)
    # a direction of length zero would be divided by zero
    conv.weight_v.copy_(torch.where(norm > 0, weight, torch.ones_like(weight)))
    conv.weight_g.copy_(norm)
    if conv.bias is not None:
        conv.bias.copy_(torch.zeros_like(conv.bias) if bias is None else bias)


def _kept_random(conv: nn.Module, rows: int) -> torch.Tensor:
    weight = _weight(conv)
    weight[:rows] = 0
    return weight


def _silence_residual_units(module: nn.Module) -> None:
    for unit in module.modules():
        if isinstance(unit, OobleckResidualUnit):
            unit.conv2.weight_g.zero_()
            unit.conv2.bias.zero_()


def _low_pass(ratio: int) -> torch.Tensor:
    """A windowed sinc of `2 * ratio` taps that sum to 1."""
    time = np.arange(2 * ratio) - (2 * ratio - 1) / 2
    taps = np.sinc(0.9 * time / ratio) * np.kaiser(2 * ratio, 3.0)
    return torch.tensor(taps / taps.sum(), dtype=torch.float32)


def _low_pass_gain() -> torch.Tensor:
    """What the three filters leave of each linear latent's band, `[latents]`; once down and once up it is squared."""
    frequency = 12.5 * (np.array(MID_BANDS + SIDE_BANDS) + 0.5)
    gain, rate = np.ones(LINEAR_LATENTS), 48_000
    for ratio in DOWNSAMPLING_RATIOS[:_LOW_PASS_LAYERS]:
        taps = _low_pass(ratio).numpy()
        gain *= np.abs(np.exp(-2j * np.pi * frequency[:, None] / rate * np.arange(len(taps))) @ taps)
        rate //= ratio
    return torch.tensor(gain, dtype=torch.float32)


def _lay_side_by_side(weight: torch.Tensor) -> None:
    """Lay the 6 samples of a step of mid (channel 0) and of side (1) into 12 channels; `[12 or more, 2 or more, taps]`.

    With in- and outputs exchanged, as a transposed convolution has them, the same weight puts them back in a row.
    """
    for signal in range(2):
        for phase in range(_PHASES):
            weight[_PHASES * signal + phase, signal, _PHASES // 2 + phase] = 1


def _moments() -> torch.Tensor:
    """Bell-shaped means over four parts of a frame's 10 steps at 250 Hz: `[4, 20 taps]`."""
    centers = 4.5 + 10 / _MOMENTS * (torch.arange(_MOMENTS) + 0.5)
    bells = torch.exp(-(((torch.arange(20) - centers[:, None]) / 1.5) ** 2))
    return bells / bells.sum(dim=1, keepdim=True)


def _transform(channels: int) -> torch.Tensor:
    """The kept bands of the MDCT as a convolution over samples laid side by side: `[latents, channels, 20 taps]`."""
    time, band = np.arange(2 * BANDS), np.arange(BANDS)[:, None]
    window = np.sqrt(2 / BANDS) * np.sin(np.pi / (2 * BANDS) * (time + 0.5))
    basis = window * np.cos(np.pi / BANDS * (time + 0.5 + BANDS / 2) * (band + 0.5))  # [bands, samples]
    basis = torch.tensor(basis, dtype=torch.float32).unflatten(1, (-1, _PHASES)).transpose(1, 2)  # [bands, 6, 20]
    weight = torch.zeros(LINEAR_LATENTS, channels, basis.shape[-1])
    weight[: len(MID_BANDS), :_PHASES] = basis[list(MID_BANDS)]
    weight[len(MID_BANDS) :, _PHASES : 2 * _PHASES] = basis[list(SIDE_BANDS)]
    return weight
