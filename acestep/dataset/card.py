"""The card of a dataset on the Hub."""

from collections import Counter
from typing import Any

import datasets

from acestep.dataset.options import PrepareOptions
from acestep.dataset.schema import TENSORS, ModelRecord, read_record

TAGS = ["music", "ace-step", "acestep-lora", "lora", "text-to-music", "latents"]


def dataset_card(splits: datasets.DatasetDict, sizes: dict[str, int], options: PrepareOptions) -> str:
    """README.md of the dataset: what it holds, which models made it, how to train on it.

    Args:
        sizes: bytes of each split's files on the Hub.
    """
    from huggingface_hub import DatasetCardData

    repo_id = options.hub_dataset_id
    record = read_record(next(iter(splits.values())), repo_id)
    columns = {
        name: [value for dataset in splits.values() for value in dataset[name]]
        for name in ("song_id", "duration", "language", "bpm", "is_instrumental", "custom_tag", "caption")
    }
    languages = Counter(
        language
        for language, instrumental in zip(columns["language"], columns["is_instrumental"], strict=True)
        if not instrumental
    )
    codes = sorted(code for code in languages if code != "unknown")
    data = DatasetCardData(
        license=options.license,
        language=[{"yue": "zh"}.get(code, code) for code in codes if code != "yue" or "zh" not in codes] or None,
        pretty_name=repo_id.rpartition("/")[2],
        tags=[*TAGS, *(["audio"] if options.include_audio else [])],
        task_categories=["text-to-audio"],
        size_categories=_size_category(len(columns["song_id"])),
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*"} for name in splits],
            }
        ],
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_text(splits, sizes, options, record, columns, languages)}"


def _text(
    splits: datasets.DatasetDict,
    sizes: dict[str, int],
    options: PrepareOptions,
    record: ModelRecord,
    columns: dict[str, list[Any]],
    languages: Counter,
) -> str:
    repo_id, first = options.hub_dataset_id, next(iter(splits.values()))
    tempos = [bpm for bpm in columns["bpm"] if bpm is not None]
    sung = ", ".join(f"{code} {count}" for code, count in languages.most_common())
    tags = ", ".join(f"`{tag}`" for tag in sorted(set(columns["custom_tag"]) - {""}))
    shapes = ", ".join(f"`{name}` {first.features[name].dtype}" for name in TENSORS)
    facts = {
        "songs": f"{len(set(columns['song_id']))} in {len(columns['song_id'])} rows",
        "hours": f"{sum(columns['duration']) / 3600:.2f}",
        "splits": ", ".join(f"{name} {len(dataset)} rows" for name, dataset in splits.items()),
        "languages": sung or "none, nobody sings",
        "instrumental": f"{sum(columns['is_instrumental'])} rows",
        "tempo": f"{min(tempos)} to {max(tempos)} bpm ({len(tempos)} rows)" if tempos else "not known",
        "captions": f"{sum(map(bool, columns['caption']))} rows",
        "trigger tags": tags or "none",
        "audio": "FLAC, 48 kHz stereo" if options.include_audio else "not included",
        "model": _model(record.model, record.revision, record.condition_encoder),
        "VAE": _model(record.vae_model, record.vae_revision, record.vae),
        "tensors": shapes,
        "size": f"{sum(sizes.values()) / 1e6:.1f} MB",
        "schema version": str(record.schema_version),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    model = record.model if record.revision else "MODEL"  # a folder's name opens nothing elsewhere
    return f"""# {repo_id.rpartition("/")[2]}

Songs encoded for fine-tuning the music model ACE-Step 1.5: latents of the audio and conditions from captions and
lyrics, beside the texts that they were made from.

| | |
|---|---|
{table}

Conditions belong to the model named here; the latents serve every model with this VAE. Licence: {options.license}.

## Train on it

```bash
accelerate launch scripts/train_lora.py --dataset {repo_id} \\
    --pretrained_model_name_or_path {model} --output_dir my-lora
```

`--streaming` reads each song from the Hub when it is its turn, without downloading the dataset.

## Look at it

```python
from datasets import load_dataset

data = load_dataset("{repo_id}", split="train").with_format("numpy")
data[0]["caption"], data[0]["latents"].shape  # 25 frames a second
```
"""


def _model(name: str, revision: str | None, fingerprint: str) -> str:
    return f"{name}{f' at {revision}' if revision else ''}, fingerprint {fingerprint}"


def _size_category(rows: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")):
        if rows < limit:
            return name
    return "100K<n<1M"
