"""Composes and plays short pieces by rule: chords, bass, melody, arpeggio and a beat in a given key and tempo."""

from dataclasses import dataclass

import numpy as np

from acestep.songs.synthesis import DRUMS, INSTRUMENTS, MixingDesk, midi_frequency, voice

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_FLATS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Chords by scale step, counted from 0; a piece begins and ends on the tonic whatever stands here.
_PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 6, 2), (0, 5, 3, 4)),
}
# (start, length) in beats of a bar's melody notes
_RHYTHMS = {
    4: (
        ((0, 1), (1, 0.5), (1.5, 1), (2.5, 0.5), (3, 1)),
        ((0, 1.5), (1.5, 0.5), (2, 1), (3, 0.5), (3.5, 0.5)),
        ((0, 0.5), (0.5, 0.5), (1, 1), (2, 1.5), (3.5, 0.5)),
    ),
    3: (((0, 1), (1, 1), (2, 1)), ((0, 2), (2, 0.5), (2.5, 0.5)), ((0, 1.5), (1.5, 0.5), (2, 1))),
}


@dataclass(frozen=True)
class Style:
    """Who plays: names from `INSTRUMENTS`, a lead that may be `voice`, and a drum pattern."""

    chords: str
    lead: str
    bass: str
    drums: str  # four on the floor, backbeat, brushes
    arpeggio: str | None = None
    tail_seconds: float = 0.6


SYNTH_POP = Style("synth pad", "voice", "synth bass", "four on the floor", "pluck")
LO_FI = Style("electric piano", "voice", "soft bass", "brushes", None, tail_seconds=0.9)


@dataclass(frozen=True)
class Piece:
    """What is played; the same piece always sounds the same.

    Attributes:
        key: such as `F# minor`.
        beats_per_bar: 3 or 4.
        vowels: what a `voice` lead sings, a letter a note, over and over.
    """

    style: Style
    bpm: int
    key: str
    bars: int
    seed: int
    beats_per_bar: int = 4
    vowels: str = "aoeaui"

    @property
    def duration(self) -> float:
        """Length in seconds, the last chord's ring included."""
        return self.bars * self.beats_per_bar * 60 / self.bpm + self.style.tail_seconds


def perform(piece: Piece, sample_rate: int = 48_000) -> np.ndarray:
    """Play the piece: `[frames, 2]` float32, its loudest sample at -1 dBFS."""
    return _Performance(piece, sample_rate).play()


class _Performance:
    def __init__(self, piece: Piece, sample_rate: int):
        self.piece, self.style, self.sample_rate = piece, piece.style, sample_rate
        self.rng = np.random.default_rng(piece.seed)
        self.beat = 60 / piece.bpm
        self.desk = MixingDesk(piece.duration, sample_rate)
        name, self.mode = piece.key.split()
        self.tonic = PITCH_CLASSES.index(_FLATS.get(name, name))
        progressions = _PROGRESSIONS[self.mode]
        progression = progressions[self.rng.integers(len(progressions))]
        self.chords = [progression[bar % len(progression)] for bar in range(piece.bars - 1)] + [0]

    def play(self) -> np.ndarray:
        for bar, chord in enumerate(self.chords):
            last = bar == self.piece.bars - 1
            self._play_chord(bar, chord)
            self._play_bass(bar, chord, last)
            self._play_drums(bar, last)
            if self.style.arpeggio and not last:
                self._play_arpeggio(bar, chord)
        self._play_melody()
        # a dotted eighth note later, the delay answers between the beats
        return self.desk.render(0.75 * self.beat, 1.3, self.rng).astype(np.float32)

    def _note(self, step: int, octave: int) -> int:
        """MIDI note of a scale step (0 is the tonic, 7 the next one) above the tonic of that octave."""
        return 12 * (octave + 1) + self.tonic + 12 * (step // 7) + _SCALES[self.mode][step % 7]

    def _sound(self, bar: int, beat: float, instrument, note: float, beats: float, **placing) -> None:
        start = (bar * self.piece.beats_per_bar + beat) * self.beat
        self.desk.add(start, instrument(midi_frequency(note), beats * self.beat, self.sample_rate), **placing)

    def _play_chord(self, bar: int, chord: int) -> None:
        instrument, beats = INSTRUMENTS[self.style.chords], self.piece.beats_per_bar
        # the tonic stays a plain triad: its seventh would make the key ambiguous
        steps = (0, 2, 4) if chord == 0 or self.style.arpeggio else (0, 2, 4, 6)
        for index, step in enumerate(steps):
            note = self._note(chord + step, 4)
            note -= 12 if note > 71 else 0  # keep the voices together between E3 and B4
            pan = -0.5 + index / (len(steps) - 1)
            placing = {"gain": 0.13, "pan": pan, "reverb": 0.35}
            if self.style.arpeggio or bar == self.piece.bars - 1:
                self._sound(bar, 0, instrument, note, beats * 0.95, **placing)
            else:
                strum = 0.02 * index
                self._sound(bar, strum, instrument, note, 1.8, **placing)
                self._sound(bar, beats / 2 + 0.5 + strum, instrument, note, beats / 2 - 0.6, **placing)

    def _play_bass(self, bar: int, chord: int, last: bool) -> None:
        instrument, beats = INSTRUMENTS[self.style.bass], self.piece.beats_per_bar
        root = self._note(chord, 2)
        root -= 12 if root > 47 else 0
        if last:
            self._sound(bar, 0, instrument, root, beats * 0.9, gain=0.42, reverb=0.05)
        elif self.style.arpeggio:
            for eighth in range(2 * beats):
                note = root + (12 if eighth % 4 == 3 else 0)
                self._sound(bar, eighth / 2, instrument, note, 0.42, gain=0.34, reverb=0.03)
        else:
            self._sound(bar, 0, instrument, root, beats / 2 - 0.1, gain=0.42, reverb=0.05)
            fifth = root + 7 if root < 40 else root - 5
            self._sound(
                bar, beats / 2, instrument, fifth if beats == 4 else root, beats / 2 - 0.2, gain=0.3, reverb=0.05
            )

    def _play_arpeggio(self, bar: int, chord: int) -> None:
        instrument = INSTRUMENTS[self.style.arpeggio]
        pattern = (0, 2, 4, 7, 4, 2, 4, 7)
        for sixteenth in range(4 * self.piece.beats_per_bar):
            note = self._note(chord + pattern[sixteenth % len(pattern)], 5)
            note -= 12 if chord >= 4 else 0
            pan = 0.6 if sixteenth % 2 else -0.6
            gain = 0.13 if sixteenth % 4 == 0 else 0.09
            self._sound(bar, sixteenth / 4, instrument, note, 0.22, gain=gain, pan=pan, delay=0.25, reverb=0.2)

    def _play_melody(self) -> None:
        rhythms, steps_of = _RHYTHMS[self.piece.beats_per_bar], {}
        motifs = [rhythms[index] for index in self.rng.permutation(len(rhythms))[:2]]
        step, sung = 4, 0
        for bar, chord in enumerate(self.chords):
            last = bar == self.piece.bars - 1
            notes = [(0.0, self.piece.beats_per_bar * 0.8)] if last else motifs[bar % 2]
            # the second phrase moves as the first did: a melody is what one hears again
            moves = steps_of.setdefault(bar % 2, self.rng.choice([-2, -1, -1, 1, 1, 2], size=len(notes)))
            for (start, length), move in zip(notes, moves, strict=False):
                step = int(np.clip(step + move, 0, 9))
                if start % 1 == 0:
                    step = self._nearest_chord_tone(step, chord)
                if last:
                    step = 7 if step > 3 else 0
                self._sound(
                    bar,
                    start,
                    self._lead(sung),
                    self._note(step, 4),
                    length * 0.92,
                    gain=0.24,
                    pan=0.1,
                    delay=0.15,
                    reverb=0.3,
                )
                sung += 1

    def _lead(self, sung: int):
        if self.style.lead == "voice":
            return voice(self.piece.vowels[sung % len(self.piece.vowels)])
        return INSTRUMENTS[self.style.lead]

    @staticmethod
    def _nearest_chord_tone(step: int, chord: int) -> int:
        candidates = [chord + tone + 7 * octave for tone in (0, 2, 4) for octave in (-1, 0, 1)]
        return min((c for c in candidates if 0 <= c <= 9), key=lambda c: (abs(c - step), c))

    def _play_drums(self, bar: int, last: bool) -> None:
        beats = self.piece.beats_per_bar
        for drum, beat, gain, pan in _DRUM_PATTERNS[self.style.drums](beats):
            if last and beat > 0:
                continue
            start = (bar * beats + beat) * self.beat
            reverb = 0.02 if "kick" in drum else 0.15
            # played by hand, no two hits are equally loud
            played = gain * (1 - 0.2 * self.rng.random())
            self.desk.add(start, DRUMS[drum](self.sample_rate, self.rng), played, pan, reverb=reverb)


def _four_on_the_floor(beats: int) -> list[tuple[str, float, float, float]]:
    hits = [("kick", float(beat), 0.62, 0.0) for beat in range(beats)]
    hits += [("snare", float(beat), 0.3, -0.05) for beat in range(1, beats, 2)]
    return hits + [("hat", eighth / 2, 0.2 if eighth % 2 else 0.12, 0.35) for eighth in range(2 * beats)]


def _backbeat(beats: int) -> list[tuple[str, float, float, float]]:
    hits = [("kick", 0.0, 0.6, 0.0), ("kick", beats / 2 + 0.5, 0.45, 0.0)]
    hits += [("snare", float(beat), 0.32, -0.05) for beat in range(1, beats, 2)]
    return hits + [("hat", float(beat), 0.15, 0.3) for beat in range(beats)]


def _brushes(beats: int) -> list[tuple[str, float, float, float]]:
    swing = 2 / 3  # the second eighth comes late
    hits = [("soft kick", 0.0, 0.5, 0.0)] + ([("soft kick", beats / 2, 0.35, 0.0)] if beats == 4 else [])
    hits += [("brush", float(beat), 0.22 if beat else 0.1, 0.25) for beat in range(beats)]
    return hits + [("brush", beat + swing, 0.07, -0.25) for beat in range(beats)]


_DRUM_PATTERNS = {"four on the floor": _four_on_the_floor, "backbeat": _backbeat, "brushes": _brushes}
