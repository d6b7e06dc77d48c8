"""Checkpoints that a crash cannot spoil: written beside, synced, sealed by a manifest, renamed once.

A checkpoint is a folder `checkpoint-STEP` with `manifest.json`, which lists every other file with size and SHA-256. No
pickle: tensors are safetensors, everything else is JSON.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from acestep.errors import UserError

MANIFEST = "manifest.json"
STATE = "state.json"
TENSORS = "training_state.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)")
_STAGING = ".staging-"  # no reader looks at it; what a crash left is removed by the next save


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint holds beside the adapter.

    Attributes:
        tensors: trainable weights and the optimizer's, by name.
        state: plain values: the step, counts, what the run was made with.
        path: the folder.
    """

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    path: Path


def save_checkpoint(
    output_dir: Path,
    step: int,
    tensors: dict[str, torch.Tensor],
    state: dict[str, Any],
    write_adapter: Callable[[Path], Any],
    keep: int | None = None,
) -> Path:
    """Write `output_dir/checkpoint-{step}`, then remove the oldest ones beyond `keep`.

    Args:
        write_adapter: writes the adapter into a folder, in the form that users load.
        keep: how many complete checkpoints to keep; None keeps all.

    Raises:
        UserError: when it cannot be written (disk full, say); the earlier checkpoints are whole.
    """
    staging, target = output_dir / f"{_STAGING}{step}", output_dir / f"checkpoint-{step}"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for left in output_dir.glob(f"{_STAGING}*"):
            shutil.rmtree(left)
        staging.mkdir()
        save_file(_apart(tensors), staging / TENSORS)
        (staging / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        write_adapter(staging)
        files = sorted(path for path in staging.iterdir() if path.is_file())
        manifest = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files}
        for path in files:
            _sync(path)
        # last, so that a folder with a manifest is a whole one
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _sync(staging / MANIFEST)
        _sync(staging)
        if target.exists():  # the same step again: a damaged one, or a run repeated on purpose
            shutil.rmtree(target)
        staging.rename(target)
        _sync(output_dir)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(
            f"{target}: could not be saved ({error.strerror or error}). Earlier checkpoints are whole; make room and "
            "go on with --resume_from_checkpoint latest."
        ) from error
    if keep is not None:
        for _, path in complete_checkpoints(output_dir)[:-keep]:
            shutil.rmtree(path)
    return target


def complete_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """Checkpoints with a manifest, by step; whether their files are undamaged is not looked at."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and (path / MANIFEST).is_file():
            found.append((int(match.group(1)), path))
    return sorted(found)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None: every file is compared with the manifest."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, recorded in manifest.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != recorded["size"] or _sha256(file) != recorded["sha256"]:
                return f"{name} is not what was written"
        missing = [name for name in (STATE, TENSORS) if name not in manifest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return f"{missing[0]} is missing" if missing else None


def load_checkpoint(name: str, output_dir: Path, say: Callable[[str], None] = print) -> SavedState | None:
    """Open the checkpoint to go on from.

    Args:
        name: a checkpoint's folder, or "latest": the newest undamaged one in `output_dir`.
        say: told of damaged ones that are passed over.

    Returns:
        The state, or None for "latest" when there is no checkpoint yet.

    Raises:
        UserError: for a folder that is no checkpoint or is damaged, or when every one is damaged.
    """
    if name != "latest":
        path = Path(name).expanduser()
        if not (path / MANIFEST).is_file():
            raise UserError(f"--resume_from_checkpoint {name}: no checkpoint there (no {MANIFEST}).")
        found = damage(path)
        if found:
            raise UserError(f"--resume_from_checkpoint {name}: is damaged: {found}. Choose another, or latest.")
        return _open(path)
    candidates = complete_checkpoints(output_dir)
    for _, path in reversed(candidates):
        found = damage(path)
        if found is None:
            return _open(path)
        say(f"warning: {path} is damaged ({found}) and is passed over.")
    if candidates:
        raise UserError(f"--resume_from_checkpoint latest: every checkpoint in {output_dir} is damaged.")
    return None


def check_same_run(
    saved: dict[str, Any], now: dict[str, Any], allow_mismatch: bool, say: Callable[[str], None]
) -> None:
    """Compare what a run was made with; both are flat dictionaries in the same order.

    Raises:
        UserError: naming the first difference, unless `allow_mismatch`, which says it instead.
    """
    for key in [*now, *(key for key in saved if key not in now)]:
        if saved.get(key) != now.get(key):
            text = f"{key} was {saved.get(key)!r} in the checkpoint and is {now.get(key)!r} now"
            if not allow_mismatch:
                raise UserError(f"--resume_from_checkpoint: {text}. Set it back, or insist: --allow_resume_mismatch.")
            say(f"warning: {text}.")


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, none sharing memory with another: 8-bit optimizers have one table of codes for all weights."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        kept = tensor.detach().cpu().contiguous()
        apart[name] = kept.clone() if kept.data_ptr() in seen else kept
        seen.add(kept.data_ptr())
    return apart


def _open(path: Path) -> SavedState:
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    return SavedState(load_file(path / TENSORS), state, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
