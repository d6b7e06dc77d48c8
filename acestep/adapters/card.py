"""The card of an adapter: what it was made of and how, and how to play it."""

import html
import json
from pathlib import Path
from typing import Any

CARD = "README.md"
TAGS = ["ace-step", "music", "text-to-music", "lora"]
PICTURE, WEIGHTS, PREVIEWS = "loss.png", "pytorch_lora_weights.safetensors", "previews"
NO_RIGHTS = "The author of this adapter has made no statement about the rights in the music that it was trained on."


def write_card(folder: Path, summary: dict[str, Any]) -> Path:
    """Write `README.md` of a finished run, also when it is not to be uploaded.

    Args:
        folder: of the run.
        summary: of the run, as `train` returns it. Nothing of it that could be a path of this machine goes into the
            card: models and datasets are named by their Hub ids, or by what they are.
    """
    beside = folder / f".{CARD}"
    beside.write_text(model_card(folder, summary), encoding="utf-8")
    beside.replace(folder / CARD)
    return folder / CARD


def model_card(folder: Path, summary: dict[str, Any]) -> str:
    """The card's text; pictures and previews are those that lie in the folder."""
    from huggingface_hub import ModelCardData

    options = summary["options"]
    clips = preview_clips(folder)
    data = ModelCardData(
        base_model=_base(summary)[0],
        base_model_relation="adapter" if _base(summary)[0] else None,
        datasets=summary["dataset_id"],
        library_name="diffusers",
        license=options["license"],
        pipeline_tag="text-to-audio",
        tags=[*TAGS, *([options["adapter"]] if options["adapter"] != "lora" else [])],
        instance_prompt=", ".join(summary["trigger_tags"]) or None,
        widget=[
            {"text": clip["prompt"], "output": {"url": clip["file"]}} for clip in clips if "base" not in clip["column"]
        ]
        or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(_sections(folder, summary, clips)) + "\n"


def preview_clips(folder: Path) -> list[dict[str, str]]:
    """The music of the model alone and of the last preview: `prompt`, `column`, `file` relative to the folder."""
    records = {path.parent.name: json.loads(path.read_text()) for path in (folder / PREVIEWS).glob("*/clips.json")}
    steps = sorted((record["step"], name) for name, record in records.items() if name != "base")
    chosen = [name for name in ("base", steps[-1][1] if steps else "") if name in records]
    clips = []
    for column in chosen:
        for name, clip in records[column]["clips"].items():
            file = f"{PREVIEWS}/{column}/{name}.flac"
            if (folder / file).is_file():
                clips.append({"name": name, "prompt": clip["settings"]["prompt"], "column": column, "file": file})
    return clips


def _base(summary: dict[str, Any]) -> tuple[str | None, str]:
    """Hub id of the base model, if it has one, and what to call it."""
    options = summary["options"]
    given = options["pretrained_model_name_or_path"]
    hub_id = given if summary["model_revision"] else None
    name = hub_id or summary["dataset_model"]
    if options["variant"]:
        name += f", variant {options['variant']}"
    return hub_id, name + (f" at {summary['model_revision'][:12]}" if summary["model_revision"] else "")


def _sections(folder: Path, summary: dict[str, Any], clips: list[dict[str, str]]) -> list[str]:
    options = summary["options"]
    title = (options["hub_model_id"] or "").rpartition("/")[2] or f"{options['adapter']} for ACE-Step 1.5"
    sections = [
        f"# {title}",
        f"An adapter for the music model ACE-Step 1.5, trained on {_songs(summary)}. Base model: {_base(summary)[1]}.",
    ]
    if summary["trigger_tags"]:
        tags = ", ".join(f"`{tag}`" for tag in summary["trigger_tags"])
        sections.append(f"**Trigger**: put {tags} into the prompt, as the captions of the training songs had it.")
    if clips:
        sections += ["## Listen", _players(clips)]
    sections += ["## How to play it", _usage(summary), "## Training", _table(summary)]
    if (folder / PICTURE).is_file():
        sections.append(f"![Loss by step]({PICTURE})")
    sections += ["## Rights", options["rights"] or NO_RIGHTS]
    return sections


def _songs(summary: dict[str, Any]) -> str:
    count = summary["songs"]
    what = f"{count} song{'' if count == 1 else 's'} ({summary['dataset_minutes'] / 60:.2f} hours)"
    if summary["dataset_id"] is None:
        return what
    at = f" at {summary['dataset_revision'][:12]}" if summary["dataset_revision"] else ""
    return f"{what} of [{summary['dataset_id']}](https://huggingface.co/datasets/{summary['dataset_id']}){at}"


def _players(clips: list[dict[str, str]]) -> str:
    columns = list(dict.fromkeys(clip["column"] for clip in clips))
    names = {column: "model alone" if column == "base" else f"with the adapter, {column}" for column in columns}
    rows = ["| prompt | " + " | ".join(names.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(clip["name"] for clip in clips):
        mine = {clip["column"]: clip for clip in clips if clip["name"] == name}
        prompt = html.escape(next(iter(mine.values()))["prompt"]).replace("|", "&#124;").replace("\n", " ")
        players = [
            f'<audio controls src="{mine[column]["file"]}"></audio>' if column in mine else "" for column in columns
        ]
        rows.append(f"| {prompt} | " + " | ".join(players) + " |")
    return "\n".join(rows)


def _usage(summary: dict[str, Any]) -> str:
    options = summary["options"]
    repo = options["hub_model_id"] or "path/to/this/folder"
    base = _base(summary)[0] or "the-base-model"
    texts = []
    if options["adapter"] in ("lora", "dora"):
        texts.append(
            "In diffusers, with the base model in its layout (`scripts/convert_checkpoint.py` of acestep-lora makes it "
            "of an original one):\n\n```python\nimport torch\nfrom diffusers import AceStepPipeline\n\n"
            'pipeline = AceStepPipeline.from_pretrained("the-converted-base-model", torch_dtype=torch.bfloat16)\n'
            f'pipeline.load_lora_weights("{repo}")\npipeline.set_adapters(["default_0"], [1.0])  # the strength\n```'
        )
    else:
        texts.append(f"`AceStepPipeline.load_lora_weights` does not load adapters of this kind ({options['adapter']}).")
    texts.append(
        "In acestep-lora:\n\n```bash\n"
        f"python scripts/generate.py --pretrained_model_name_or_path {base} --lora {repo} \\\n"
        '    --prompt "..." --duration 120 --output song.flac\n```'
    )
    texts.append(
        "For ComfyUI and the original ACE-Step tools, export it first:\n\n```bash\n"
        f"python scripts/export_lora.py --lora {repo} --to comfyui --output_dir comfyui\n"
        f"python scripts/export_lora.py --lora {repo} --to peft --output_dir original\n```"
    )
    texts.append(
        "Recommended scale: 1, the strength it was trained at. Lower it (0.6 to 0.9) where the music falls apart or "
        "copies, raise it a little where the style is faint."
    )
    return "\n\n".join(texts)


def _table(summary: dict[str, Any]) -> str:
    options, before, after = summary["options"], summary["validation_base"], summary["best"]
    rows = {
        "adapter": summary["adapter"],
        "songs": _songs(summary),
        "steps": f"{summary['steps']}, effective batch {summary['effective_batch']}",
        "learning rate": f"{summary['learning_rate']:g}, {options['lr_scheduler']}, {options['optimizer']}",
        "timesteps": f"{summary['timestep_law']}, condition dropout {summary['condition_dropout']:g}",
        "precision": f"{options['mixed_precision'] or 'as launched'}, base {options['quantization']}",
        "held-out loss": (
            f"{before['loss']:.4f} without adapter, {after['loss']:.4f} at best (step {after['step']}), on "
            f"{summary['validation_rows']} rows"
            if before and after
            else "not measured"
        ),
        "loss on all songs": (
            f"{summary['evaluation_before']['loss']:.4f} before, {summary['evaluation_after']['loss']:.4f} after"
            if summary["evaluation_before"]
            else "not measured"
        ),
        "peak memory": f"{summary['peak_memory'] / 2**30:.1f} GiB on {summary['device']}",
        "wall time": f"{summary['seconds'] / 60:.1f} minutes on {summary['processes']} process(es)",
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
