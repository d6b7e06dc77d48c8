"""A small software synthesizer: instruments, drums, and a stereo mixing desk with delay and reverb, in numpy.

Every instrument takes a frequency in Hz and a length in seconds and returns a mono float64 signal, at most about 1 in
size, which rings a little beyond that length. Waves are sums of harmonics below the Nyquist frequency, so that nothing
aliases at any sample rate.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

PEAK = 10 ** (-1 / 20)  # -1 dBFS
_TABLE_LENGTH = 4096

Instrument = Callable[[float, float, int], np.ndarray]


def midi_frequency(note: float) -> float:
    """Frequency in Hz of a MIDI note number in equal temperament; 69 is A at 440 Hz."""
    return 440.0 * 2 ** ((note - 69) / 12)


@lru_cache(maxsize=512)
def _one_cycle(amplitudes: tuple[float, ...]) -> np.ndarray:
    phase = np.arange(_TABLE_LENGTH + 1) / _TABLE_LENGTH
    harmonics = np.arange(1, len(amplitudes) + 1)
    return np.asarray(amplitudes) @ np.sin(2 * np.pi * harmonics[:, None] * phase)


def _time(seconds: float, sample_rate: int) -> np.ndarray:
    return np.arange(round(seconds * sample_rate)) / sample_rate


def _wave(
    amplitudes: np.ndarray, frequency: float, time: np.ndarray, sample_rate: int, vibrato: float = 0.0
) -> np.ndarray:
    """A periodic wave from the amplitudes of its harmonics; `vibrato` is the depth in semitones, at 5.5 Hz."""
    audible = max(1, int(0.45 * sample_rate / frequency))
    table = _one_cycle(tuple(np.round(amplitudes[:audible], 5)))
    cycles = frequency * time
    if vibrato:
        # it sets in after a fifth of a second, as a singer's does
        depth = frequency * (2 ** (vibrato / 12) - 1) * np.clip((time - 0.2) / 0.3, 0, 1)
        cycles = cycles - depth * np.cos(2 * np.pi * 5.5 * time) / (2 * np.pi * 5.5)
    position = (cycles % 1.0) * _TABLE_LENGTH
    left = position.astype(np.int64)
    return table[left] + (table[left + 1] - table[left]) * (position - left)


def _envelope(
    time: np.ndarray, seconds: float, attack: float, decay: float, sustain: float, release: float
) -> np.ndarray:
    """Linear attack, exponential decay to `sustain`, and after `seconds` an exponential release; zero at the end."""
    level = np.minimum(time / attack, 1.0) * (sustain + (1 - sustain) * np.exp(-np.maximum(time - attack, 0) / decay))
    level *= np.exp(-np.maximum(time - seconds, 0) / (release / 5))
    return level * np.clip((time[-1] - time) / 0.005, 0, 1)


def _harmonics(count: int, slope: float, odd: bool = False) -> np.ndarray:
    numbers = np.arange(1, count + 1)
    return np.where((numbers % 2 == 1) | (not odd), numbers**-slope, 0.0)


def _normalized(signal: np.ndarray) -> np.ndarray:
    return signal / max(np.abs(signal).max(), 1e-9)


def synth_pad(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """Three saws a few cents apart, soft at the start."""
    time = _time(seconds + 0.4, sample_rate)
    saws = sum(_wave(_harmonics(14, 1.4), frequency * 2 ** (cents / 1200), time, sample_rate) for cents in (-6, 0, 6))
    return _normalized(saws) * _envelope(time, seconds, 0.06, 1.0, 0.8, 0.4)


def pluck(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """A bright saw that darkens quickly: the arpeggio."""
    time = _time(seconds + 0.25, sample_rate)
    bright = _wave(_harmonics(24, 1.0), frequency, time, sample_rate) * np.exp(-time / 0.06)
    dark = _wave(_harmonics(6, 1.6), frequency, time, sample_rate)
    return _normalized(bright + 0.7 * dark) * _envelope(time, seconds, 0.003, 0.16, 0.1, 0.25)


def square_lead(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """Odd harmonics with a little vibrato."""
    time = _time(seconds + 0.15, sample_rate)
    wave = _wave(_harmonics(21, 1.15, odd=True), frequency, time, sample_rate, vibrato=0.15)
    return _normalized(wave) * _envelope(time, seconds, 0.01, 0.5, 0.7, 0.15)


def flute(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """Few harmonics, slow attack, vibrato."""
    time = _time(seconds + 0.2, sample_rate)
    wave = _wave(np.array([1.0, 0.25, 0.12, 0.04]), frequency, time, sample_rate, vibrato=0.25)
    return _normalized(wave) * _envelope(time, seconds, 0.05, 1.0, 0.85, 0.2)


def electric_piano(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """Two sines, the second bending the first's phase: bell-like at the start, soft afterwards."""
    time = _time(seconds + 0.5, sample_rate)
    bend = (0.25 + 1.1 * np.exp(-time / 0.25)) * np.sin(2 * np.pi * frequency * time)
    wave = np.sin(2 * np.pi * frequency * time + bend)
    return wave * _envelope(time, seconds, 0.006, 0.9, 0.15, 0.5)


def organ(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """Drawbars at 1, 2, 3, 4 and 6 times the frequency."""
    time = _time(seconds + 0.1, sample_rate)
    wave = _wave(np.array([1.0, 0.7, 0.5, 0.3, 0.0, 0.2]), frequency, time, sample_rate, vibrato=0.05)
    return _normalized(wave) * _envelope(time, seconds, 0.015, 1.0, 0.95, 0.1)


def synth_bass(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """A saw with a short, strong start."""
    time = _time(seconds + 0.06, sample_rate)
    wave = _wave(_harmonics(12, 1.2), frequency, time, sample_rate)
    return _normalized(wave) * _envelope(time, seconds, 0.004, 0.12, 0.55, 0.06)


def soft_bass(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
    """Nearly a sine, as a double bass plays it."""
    time = _time(seconds + 0.15, sample_rate)
    wave = _wave(np.array([1.0, 0.35, 0.12, 0.05]), frequency, time, sample_rate)
    return _normalized(wave) * _envelope(time, seconds, 0.012, 0.5, 0.4, 0.15)


# First two resonances of a voice in Hz, and their relative strength
_VOWELS = {
    "a": (800, 1200, 0.8),
    "e": (450, 2000, 0.45),
    "i": (300, 2300, 0.35),
    "o": (480, 850, 0.7),
    "u": (330, 700, 0.4),
}


def voice(vowel: str) -> Instrument:
    """An instrument that sings one of the vowels a, e, i, o and u."""
    first, second, strength = _VOWELS[vowel]

    def sing(frequency: float, seconds: float, sample_rate: int) -> np.ndarray:
        time = _time(seconds + 0.12, sample_rate)
        partials = frequency * np.arange(1, 33)
        resonance = 1 / (1 + ((partials - first) / 120) ** 2) + strength / (1 + ((partials - second) / 180) ** 2)
        amplitudes = (0.05 + resonance) * (frequency / partials) ** 0.6
        wave = _wave(amplitudes / amplitudes.max(), frequency, time, sample_rate, vibrato=0.3)
        return _normalized(wave) * _envelope(time, seconds, 0.04, 0.8, 0.8, 0.12)

    return sing


INSTRUMENTS: dict[str, Instrument] = {
    "synth pad": synth_pad,
    "pluck": pluck,
    "square lead": square_lead,
    "flute": flute,
    "electric piano": electric_piano,
    "organ": organ,
    "synth bass": synth_bass,
    "soft bass": soft_bass,
}


def band_noise(seconds: float, low: float, high: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """White noise between two frequencies in Hz, its loudest sample 1.

    Drawn at 48 kHz's length for every rate, so that a rate does not change what the generator gives next.
    """
    count = round(seconds * sample_rate)
    drawn = rng.standard_normal(round(seconds * 48_000))
    spectrum = np.fft.rfft(drawn, 2 * count)
    frequencies = np.fft.rfftfreq(2 * count, 1 / sample_rate)
    spectrum *= 1 / (1 + (low / np.maximum(frequencies, 1)) ** 4) / (1 + (frequencies / high) ** 4)
    return _normalized(np.fft.irfft(spectrum)[:count])


def kick(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A sine falling from 160 to 48 Hz."""
    time = _time(0.28, sample_rate)
    cycles = 48 * time + 112 * 0.035 * (1 - np.exp(-time / 0.035))
    return np.sin(2 * np.pi * cycles) * _envelope(time, 0.16, 0.002, 0.14, 0.0, 0.12)


def snare(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A short tone under bright noise."""
    time = _time(0.22, sample_rate)
    noise = band_noise(0.22, 900, 9000, sample_rate, rng)[: time.size]
    tone = np.sin(2 * np.pi * 190 * time) * np.exp(-time / 0.05)
    return _normalized(0.7 * noise * np.exp(-time / 0.06) + 0.6 * tone) * _envelope(time, 0.2, 0.001, 1.0, 1.0, 0.02)


def hat(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """40 ms of high noise."""
    time = _time(0.07, sample_rate)
    noise = band_noise(0.07, 7000, 16_000, sample_rate, rng)[: time.size]
    return noise * _envelope(time, 0.05, 0.001, 0.018, 0.0, 0.02)


def brush(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A broom over a snare: middle noise that swells and fades."""
    time = _time(0.26, sample_rate)
    noise = band_noise(0.26, 1500, 5000, sample_rate, rng)[: time.size]
    return noise * _envelope(time, 0.12, 0.02, 0.07, 0.0, 0.12)


def soft_kick(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A padded beater: lower and duller than `kick`."""
    time = _time(0.3, sample_rate)
    cycles = 44 * time + 40 * 0.03 * (1 - np.exp(-time / 0.03))
    return np.sin(2 * np.pi * cycles) * _envelope(time, 0.18, 0.006, 0.12, 0.0, 0.12)


DRUMS = {"kick": kick, "snare": snare, "hat": hat, "brush": brush, "soft kick": soft_kick}


class MixingDesk:
    """Sums mono signals into stereo with a pan position, and sends part of them to a delay and a reverb.

    Args:
        seconds: length of the result; what rings beyond it is faded out.
        sample_rate: in Hz, of everything added.
    """

    def __init__(self, seconds: float, sample_rate: int):
        self.sample_rate = sample_rate
        self.frames = round(seconds * sample_rate)
        self._dry, self._to_delay, self._to_reverb = np.zeros((3, self.frames, 2))

    def add(
        self, start: float, signal: np.ndarray, gain: float, pan: float = 0.0, delay: float = 0.0, reverb: float = 0.1
    ):
        """Add a mono signal at `start` seconds; pan -1 is left, 1 right; `delay`, `reverb` are the parts sent there."""
        first = round(start * self.sample_rate)
        signal = signal[: max(0, self.frames - first)]
        angle = (pan + 1) * np.pi / 4  # equal power across the middle
        placed = gain * signal[:, None] * np.array([np.cos(angle), np.sin(angle)])
        window = slice(first, first + len(placed))
        self._dry[window] += placed
        if delay:
            self._to_delay[window] += delay * placed
        if reverb:
            self._to_reverb[window] += reverb * placed

    def render(self, delay_seconds: float, reverb_seconds: float, rng: np.random.Generator) -> np.ndarray:
        """The mix, `[frames, 2]` float64, its loudest sample at -1 dBFS; echoes change sides."""
        mix, echo = self._dry, self._to_delay
        for _ in range(3):
            shift = round(delay_seconds * self.sample_rate)
            echo = 0.5 * np.concatenate([np.zeros((shift, 2)), echo])[: self.frames, ::-1]
            mix = mix + echo
        mix = mix + self._reverb(reverb_seconds, rng)
        mix = np.tanh(mix / np.abs(mix).max() * 1.2)  # rounds the loudest beats, as tape does
        fade = np.clip((self.frames - np.arange(self.frames)) / (0.25 * self.sample_rate), 0, 1)
        mix = mix * fade[:, None]
        return mix * (PEAK / np.abs(mix).max())

    def _reverb(self, seconds: float, rng: np.random.Generator) -> np.ndarray:
        time = _time(seconds, self.sample_rate)
        size = 1 << (self.frames + time.size - 1).bit_length()
        wet = []
        for side in range(2):  # another room for each ear makes it wide
            room = band_noise(seconds, 150, 4500, self.sample_rate, rng)[: time.size] * np.exp(-6.9 * time / seconds)
            room /= np.sqrt(np.sum(room**2))
            spectrum = np.fft.rfft(self._to_reverb[:, side], size) * np.fft.rfft(room, size)
            wet.append(np.fft.irfft(spectrum, size)[: self.frames])
        return np.stack(wet, axis=1)
