"""What an evaluation leaves: text for the terminal, JSON, pictures, and a page to hear what was generated."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from acestep.evaluation.comparison import FEWEST_SONGS, Comparison, pair_line
from acestep.evaluation.model import BASE, HELD_OUT, TRAINING
from acestep.evaluation.playing import Piece
from acestep.evaluation.plots import PICTURE_NAME, SONGS_NAME, plot_songs, plot_timesteps, song_means
from acestep.players import Row, write_players
from acestep.train.metrics import without_nan

RECORD_NAME, PAGE_NAME = "evaluation.json", "index.html"


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured.

    Attributes:
        verdicts: the answer, a line an adapter.
        notes: what a person should know, a line each.
        settings: how it was measured.
        songs, names: of each row that was measured.
        losses: `[rows, draws]` by model, the one alone first.
        alone: each adapter beside the model alone.
        pairs: adapters beside each other.
        pieces: what was generated, by model, and the held-out songs.
        prompts: the rows' texts, one a piece.
        heard: what was measured of the pieces, by model.
    """

    verdicts: list[str]
    notes: list[str]
    settings: dict[str, Any]
    songs: list[str]
    names: list[str]
    losses: dict[str, np.ndarray]
    alone: list[Comparison]
    pairs: list[Comparison]
    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    heard: dict[str, dict[str, Any]] = field(default_factory=dict)


def text(evaluation: Evaluation) -> str:
    """For the terminal: the answer first, then what it rests on."""
    lines = [*evaluation.verdicts, *(pair_line(pair) for pair in evaluation.pairs), *evaluation.notes]
    lines += ["", f"measured on {evaluation.settings['songs']}; loss by timestep (0: music, 1: noise), and how it"]
    lines[-1] += " differs from base, with 95 % intervals over songs:"
    lines += _table(_loss_cells(evaluation.alone))
    if evaluation.heard:
        count = len(evaluation.prompts)
        lines += ["", f"generated for the prompts of {count} held-out song{'' if count == 1 else 's'}:"]
        lines += _table(_heard_cells(evaluation.heard))
    return "\n".join(lines).encode("utf-8", "replace").decode()  # paths may be no Unicode


def record(evaluation: Evaluation) -> dict[str, Any]:
    """As JSON has it; null stands for what is not finite."""
    means = {label: song_means(values, evaluation.songs) for label, values in evaluation.losses.items()}
    names = dict(zip(evaluation.songs, evaluation.names, strict=True))
    return without_nan(
        {
            "verdicts": evaluation.verdicts,
            "notes": evaluation.notes,
            "settings": evaluation.settings,
            "adapters": {found.label: found.record() for found in evaluation.alone},
            "pairs": [{"label": pair.label, **pair.record()} for pair in evaluation.pairs],
            "songs": [
                {"song_id": song, "file_name": name, "loss": {label: means[label][song] for label in means}}
                for song, name in names.items()
            ],
            "generated": evaluation.heard,
            "pieces": {label: [vars(piece.clip) for piece in played] for label, played in evaluation.pieces.items()},
        }
    )


def write(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write the record, the pictures, and the page where something was generated; the files written."""
    plot_timesteps(folder / PICTURE_NAME, evaluation.alone)
    plot_songs(folder / SONGS_NAME, evaluation.losses, BASE, evaluation.songs, evaluation.names)
    written = [folder / PICTURE_NAME, folder / SONGS_NAME]
    if evaluation.pieces:
        _write_page(evaluation, folder / PAGE_NAME)
        written.append(folder / PAGE_NAME)
    beside, file = folder / f".{RECORD_NAME}", folder / RECORD_NAME
    content = json.dumps(record(evaluation), ensure_ascii=False, indent=1, allow_nan=False)
    beside.write_text(content.encode("utf-8", "replace").decode() + "\n", encoding="utf-8")
    beside.replace(file)  # last: an evaluation that has one is whole
    return [file, *written]


def _write_page(evaluation: Evaluation, file: Path) -> None:
    rows = []
    for number, texts in enumerate(evaluation.prompts):
        clips = {label: played[number].clip for label, played in evaluation.pieces.items()}
        shown = (("bpm", texts["bpm"]), ("key", texts["keyscale"]), ("seconds", f"{texts['duration']:.1f}"))
        facts = [(name, str(value)) for name, value in shown if value]
        for label, played in evaluation.pieces.items():
            music = played[number].music
            if music is not None:
                tempo = "no beat" if music.bpm is None else f"{music.bpm:.0f} bpm"
                facts.append((f"measured, {label}", f"{tempo}, {music.key or 'no key'}"))
        caption = texts["caption"] if texts["text_prompt"] else texts["genre"]
        rows.append(Row(texts["file_name"], caption or "", texts["lyrics"] or "", facts, clips))
    notes = [*evaluation.verdicts, *evaluation.notes]
    write_players(file, "Music for the prompts of held-out songs", list(evaluation.pieces), rows, notes)


def _loss_cells(alone: list[Comparison]) -> list[list[str]]:
    cells = [["t", BASE, *(found.label for found in alone)]]
    for part, (t, first) in enumerate(alone[0].by_timestep):
        results = [found.by_timestep[part][1] for found in alone]
        cells.append([f"{t:.4g}", f"{first['reference_loss']:#.4g}", *map(_loss_cell, results)])
    whole = alone[0].whole["reference_loss"]
    return [*cells, ["all", f"{whole:#.4g}", *(_loss_cell(found.whole) for found in alone)]]


def _loss_cell(result: dict[str, Any]) -> str:
    """Such as `1.151, -4.4 % (-5.9 to -3.1)`."""
    text = f"{result['loss']:#.4g}, {-100 * result['improvement']:+.1f} %"
    if result["low"] is None or result["songs"] < FEWEST_SONGS:
        return text
    return f"{text} ({-100 * result['high']:+.1f} to {-100 * result['low']:+.1f})"


def _heard_cells(heard: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A row a model, a column a metric; columns that nothing is known of are left out."""
    columns = {
        "Fréchet, latents": ("frechet_latents", lambda found: f"{found['frechet_distance']:.4g}"),
        "Fréchet, CLAP": ("frechet_clap", lambda found: f"{found['frechet_distance']:.4g}"),
        "tempo kept": ("tempo", lambda found: f"{found['accuracy2']:.0%} of {found['pieces']}"),
        "key kept": ("key", lambda found: f"{found['accuracy']:.0%} of {found['pieces']}"),
        "like training songs": ("training_similarity", _similarity_cell),
    }
    used = {title: cell for title, cell in columns.items() if any(cell[0] in found for found in heard.values())}
    order = [label for label in heard if label not in (TRAINING, HELD_OUT)]
    order += [label for label in (HELD_OUT, TRAINING) if heard.get(label)]
    return [["", *used]] + [
        [label, *(show(heard[label][name]) if name in heard[label] else "-" for name, show in used.values())]
        for label in order
    ]


def _similarity_cell(found: dict[str, float]) -> str:
    return f"{found['share_above']:.1%} of windows (1 % expected), highest {found['highest']:.2f}"


def _table(cells: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
