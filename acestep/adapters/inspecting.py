"""What an adapter's file holds, as text for a person."""

import json
import re
from collections import Counter
from typing import Any

from acestep.adapters.adapter import Adapter, tidy
from acestep.adapters.locating import SUMMARY
from acestep.adapters.updates import norm

_BLOCK_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_SHORT = {"self_attn": "self", "cross_attn": "cross", "to_out.0": "o", "to_q": "q", "to_k": "k", "to_v": "v"}
_LAYOUTS = {
    "diffusers": "diffusers",
    "peft": "the original tools' PEFT",
    "comfyui": "ComfyUI",
    "lycoris": "LyCORIS",
}
_SUMMARY_ENTRIES = ("model", "model_revision", "dataset_rows", "dataset_minutes", "steps", "effective_batch")


def summary_line(adapter: Adapter) -> str:
    """One line: file, layout, kind, ranks and alphas, layers and weights."""
    weights = sum(weight.numel() for weight in adapter.state_dict().values())
    counted = f"{weights / 1e6:.2f} M" if weights >= 1e5 else f"{weights:,}"
    return (
        f"{adapter.file}: {adapter.label} in {_LAYOUTS.get(adapter.layout, 'no')} layout, {_strength(adapter)}, on "
        f"{len(adapter.layers)} layers, {counted} weights"
    )


def inspection(adapter: Adapter) -> str:
    """All that the file tells: see `summary_line`, then dtypes, size, header, training, and the updates' norms."""
    dtypes = Counter(str(weight.dtype).removeprefix("torch.") for weight in adapter.state_dict().values())
    size = adapter.file.stat().st_size
    shown = f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size:,} bytes"
    lines = [
        summary_line(adapter),
        f"size: {shown}, {', '.join(f'{count} x {dtype}' for dtype, count in dtypes.items())}",
    ]
    if adapter.settings:
        lines.append("settings: " + ", ".join(f"{name} {value}" for name, value in adapter.settings.items()))
    lines += [f"trained on: {text}" for text in _trained_on(adapter)]
    header = {key: text for key, text in adapter.header.items() if key not in ("format", "base_model")}
    lines += [f"header: {key}: {text if len(text) <= 200 else text[:200] + '...'}" for key, text in header.items()]
    lines += [f"warning: {warning}" for warning in adapter.warnings]
    return "\n".join([*lines, "", *_norms(adapter)])


def training_summary(adapter: Adapter) -> dict[str, Any]:
    """What the trainer left beside the adapter, or in the folder above a checkpoint; {} if nothing."""
    for folder in (adapter.file.parent, adapter.file.parent.parent):
        path = folder / SUMMARY
        if path.is_file() and (folder == adapter.file.parent or adapter.file.parent.name.startswith("checkpoint-")):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return {}
            return content if isinstance(content, dict) else {}
    return {}


def _strength(adapter: Adapter) -> str:
    ranks = ", ".join(str(rank) for rank in sorted(set(adapter.ranks.values())))
    if adapter.kind == "oft":
        return f"blocks of {ranks}"
    alphas = ", ".join(f"{tidy(alpha):g}" for alpha in sorted(set(adapter.alphas.values())))
    scales = sorted({layer.scale for layer in adapter.layers.values()})
    strength = f"{scales[0]:.4g}" if len(scales) == 1 else f"{scales[0]:.4g} to {scales[-1]:.4g}"
    return f"rank {ranks}, alpha {alphas} (strength {strength})"


def _trained_on(adapter: Adapter) -> list[str]:
    summary = training_summary(adapter)
    base = adapter.base_model or adapter.header.get("base_model", "")
    lines = [base] if base and not summary.get("model") else []
    told = [f"{name.replace('_', ' ')} {summary[name]}" for name in _SUMMARY_ENTRIES if summary.get(name) is not None]
    return lines + ([", ".join(told)] if told else [])


def _norms(adapter: Adapter) -> list[str]:
    """A table of the updates' Frobenius norms: a row a block, a column a layer of it."""
    what = {"dora": " before the rows get their magnitudes", "oft": ": of R - 1, the turn"}.get(adapter.kind, "")
    cells: dict[int, dict[str, float]] = {}
    others, columns = {}, []
    for name in adapter.layers:
        match, value = _BLOCK_LAYER.fullmatch(name), norm(adapter, name)
        if match is None:
            others[name] = value
            continue
        column = _short_name(match[2])
        columns += [column] if column not in columns else []
        cells.setdefault(int(match[1]), {})[column] = value
    columns.sort(key=lambda column: (("self", "cross", "mlp").index(column.split(".")[0]), column))
    rows = [["block", *columns]] + [
        [str(block), *(f"{row[column]:.4g}" if column in row else "-" for column in columns)]
        for block, row in sorted(cells.items())
    ]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    table = (
        ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows] if cells else []
    )
    overall = sum(value**2 for row in (*cells.values(), others) for value in row.values()) ** 0.5
    heading = f"norm of each update{what} (all together {overall:.4g}):"
    return [heading, *table, *(f"{name}  {value:.4g}" for name, value in others.items())]


def _short_name(name: str) -> str:
    for long, short in _SHORT.items():
        name = name.replace(long, short)
    return name.removesuffix("_proj")
