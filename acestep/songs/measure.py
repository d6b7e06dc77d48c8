"""Measures audio block by block, so that memory does not grow with a song's length, and says what stands out."""

from dataclasses import dataclass

import numpy as np

from acestep.songs.showing import counted

WINDOW_SECONDS = 0.005
CLIPPED = 0.999  # of full scale
SILENT_PEAK = 1e-4  # -80 dBFS: dither, no music
QUIET_WINDOW = 1e-3  # -60 dBFS
LONG_SILENCE_SECONDS = 5.0
LOW_LEVEL_RMS = 0.01  # -40 dBFS
DROPOUT_SECONDS = 0.02
CLICK = 0.004  # -48 dBFS
_FFT = 4096


@dataclass
class Measures:
    """What was measured.

    Attributes:
        frames: samples a channel.
        finite: no NaN and no infinity.
        peak, rms: of full scale, over all channels.
        clipped: samples in runs of three or more at full scale.
        channels_equal: two channels that are the same (mono in stereo).
        silent_channels: channels whose peak is under `SILENT_PEAK` while another's is not.
        window_peaks: `[windows]` peak of each window of `WINDOW_SECONDS`, as 0..1.
        clicks: single samples that stand far out of their neighbours.
        cutoff: Hz above which nothing is left although much is below it, or None.
    """

    frames: int = 0
    finite: bool = True
    peak: float = 0.0
    rms: float = 0.0
    clipped: int = 0
    channels_equal: bool = False
    silent_channels: int = 0
    window_peaks: np.ndarray | None = None
    clicks: int = 0
    cutoff: float | None = None


class Meter:
    """Takes blocks of float32 `[frames, channels]` in order; `result` says what was in them.

    Clicks and the spectrum are measured in lossless files only: lossy ones have checksums, and a cutoff by design.
    All blocks but the last must be a whole number of windows long: `block_frames` gives a fitting length.
    """

    def __init__(self, sample_rate: int, channels: int, lossless: bool = True):
        self._rate, self._channels, self._lossless = sample_rate, channels, lossless
        self._window = max(1, round(sample_rate * WINDOW_SECONDS))
        self._measures = Measures()
        self._square, self._difference = 0.0, 0.0
        self._channel_peaks = np.zeros(channels)
        self._windows: list[np.ndarray] = []
        self._power = np.zeros(_FFT // 2 + 1)
        self._taper = np.hanning(_FFT).astype(np.float32)

    @property
    def block_frames(self) -> int:
        """A length of about a second, which fits the processor's cache, that is a whole number of windows."""
        return self._window * 200

    def add(self, block: np.ndarray) -> None:
        """Measure one more block."""
        measures = self._measures
        measures.frames += len(block)
        if not measures.finite or not len(block):
            return
        channels = np.ascontiguousarray(block.T)  # [channels, frames]: numpy is slow along short axes
        loudest = np.zeros(len(block), np.float32)
        peaks = np.zeros(len(channels))
        for index, channel in enumerate(channels):
            level = np.abs(channel)
            peaks[index] = level.max()
            # NaN does not compare; a float so large that its square is none is no sound either.
            if not peaks[index] < 1e18:
                measures.finite = False
                return
            np.maximum(loudest, level, out=loudest)
            self._square += float(np.square(channel).sum(dtype=np.float64))
            if peaks[index] >= CLIPPED:
                full = level >= CLIPPED
                measures.clipped += int((full[2:] & full[1:-1] & full[:-2]).sum())
            if self._lossless:
                measures.clicks += _clicks(channel)
        self._channel_peaks = np.maximum(self._channel_peaks, peaks)
        if len(channels) == 2 and self._difference <= 1e-4:  # more than that is no longer "the same"
            self._difference = max(self._difference, float(np.abs(channels[0] - channels[1]).max()))
        loudest = np.pad(loudest, (0, -len(loudest) % self._window))
        self._windows.append(loudest.reshape(-1, self._window).max(axis=1))
        if self._lossless:
            self._add_spectrum(channels)

    def _add_spectrum(self, channels: np.ndarray) -> None:
        # A part of each second says enough.
        mono = channels[:, : 2 * _FFT].mean(axis=0)
        for start in range(0, len(mono) - _FFT + 1, _FFT):
            self._power += np.square(np.abs(np.fft.rfft(mono[start : start + _FFT] * self._taper)))

    def result(self) -> Measures:
        """Return the measures of all blocks."""
        measures = self._measures
        measures.peak = float(self._channel_peaks.max(initial=0.0))
        measures.rms = float(np.sqrt(self._square / max(1, measures.frames * self._channels)))
        measures.window_peaks = np.concatenate(self._windows) if self._windows else np.zeros(0, np.float32)
        silent = self._channel_peaks < SILENT_PEAK
        measures.silent_channels = int(silent.sum()) if not silent.all() else 0
        measures.channels_equal = self._channels == 2 and self._difference <= 1e-4 * max(measures.peak, 1e-9)
        measures.cutoff = _cutoff(self._power, self._rate)
        return measures


def measure_warnings(measures: Measures, lossless: bool) -> list[str]:
    """Return what a person should look at."""
    warnings = []
    if measures.clipped:
        warnings.append(f"clipping: {counted(measures.clipped, 'sample lies', 'samples lie')} in runs at full scale")
    elif measures.peak > 1.0:
        warnings.append(f"peaks at {measures.peak:.2f} of full scale: clipping as soon as it is played")
    if measures.rms < LOW_LEVEL_RMS:
        warnings.append(f"very low level: {20 * np.log10(max(measures.rms, 1e-9)):.0f} dBFS on average")
    if measures.silent_channels:
        warnings.append(f"{counted(measures.silent_channels, 'of its channels is', 'of its channels are')} silent")
    elif measures.channels_equal:
        warnings.append("mono in stereo: both channels are the same")
    warnings += _silence_warnings(measures.window_peaks)
    if lossless and measures.cutoff is not None:
        warnings.append(
            f"nothing above some {measures.cutoff / 1000:.0f} kHz: a lossy or upsampled source in a lossless file"
        )
    if lossless and measures.clicks:
        clicks = counted(measures.clicks, "single sample stands", "single samples stand")
        warnings.append(f"{clicks} out as clicks: the file may be damaged")
    return warnings


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return `(start, end)` of each run of True in `[n]`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _silence_warnings(peaks: np.ndarray) -> list[str]:
    warnings = []
    for start, end in runs(peaks < QUIET_WINDOW):
        if (end - start) * WINDOW_SECONDS >= LONG_SILENCE_SECONDS:
            where = "at the start" if start == 0 else "at the end" if end == len(peaks) else f"at {_clock(start)}"
            warnings.append(f"long silence: {(end - start) * WINDOW_SECONDS:.0f} s {where}")
    # Music fades; a failed copy stops: exact zeros right beside loud sound.
    cuts = [
        (start, end)
        for start, end in runs(peaks == 0)
        if (end - start) * WINDOW_SECONDS >= DROPOUT_SECONDS
        and max(peaks[max(0, start - 2) : start].max(initial=0), peaks[end : end + 2].max(initial=0)) > 0.02
        and start > 0
    ]
    if cuts:
        start, end = cuts[0]
        more = f" and {len(cuts) - 1} more" if len(cuts) > 1 else ""
        length = (end - start) * WINDOW_SECONDS
        warnings.append(f"drop-out: {length:.2f} s of zeros from {_clock(start)}{more}: the file may be damaged")
    return warnings


def _clicks(channel: np.ndarray) -> int:
    """Count samples that lie far off the line between their neighbours while all around them lies near it."""
    if len(channel) < 20:
        return 0
    bend = channel[:-2] + channel[2:]
    bend *= -0.5
    bend += channel[1:-1]
    size = np.abs(bend)
    candidates = np.flatnonzero(size > CLICK)
    candidates = candidates[(candidates >= 8) & (candidates < len(bend) - 8)]
    for distance in (2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8):  # most are ruled out by the first
        candidates = candidates[size[candidates] > 8 * size[candidates + distance]]
    # An impulse bends its neighbours by minus a half of its own bend; the edge of a step does not.
    centre = bend[candidates]
    impulse = (np.abs(bend[candidates - 1] + centre / 2) < 0.25 * np.abs(centre)) & (
        np.abs(bend[candidates + 1] + centre / 2) < 0.25 * np.abs(centre)
    )
    return int(impulse.sum())


def _cutoff(power: np.ndarray, rate: int) -> float | None:
    """Return the frequency of a brick wall in a mean power spectrum `[bins]`, or None."""
    if rate < 32000 or not power.any():
        return None
    per_bin = rate / _FFT
    width = max(1, round(300 / per_bin))
    smooth = np.convolve(power, np.ones(width) / width, mode="same")
    level = 10 * np.log10(smooth / smooth.max() + 1e-14)
    drops = {}
    for frequency in np.arange(9000, min(20600, rate / 2 - 900), 50):
        middle = round(frequency / per_bin)
        gap = round(500 / per_bin)
        below = level[middle - 2 * gap : middle - gap].mean()
        above = level[middle + gap :].max()
        if below > -75 and below - above > 25:
            drops[float(frequency)] = below - above
    # The steepest place; several are as steep, and the wall stands in their middle.
    steepest = [frequency for frequency, drop in drops.items() if drop > max(drops.values()) - 1]
    return sum(steepest) / len(steepest) if steepest else None


def _clock(window: int) -> str:
    seconds = window * WINDOW_SECONDS
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
