"""Where an adapter's file lies: a file, a folder, a trainer's checkpoint, or the Hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import UserError
from acestep.models.repository import Repository

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SUMMARY = "training_summary.json"  # what the trainer leaves beside an adapter
_TRAINING_STATE = "training_state.safetensors"  # an optimizer's state, in a checkpoint
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/(.+\.\w+)")


@dataclass(frozen=True)
class Located:
    """An adapter's file, and PEFT's configuration beside it if that belongs to it."""

    file: Path
    config: Path | None = None


def locate_adapter(name: str, revision: str | None = None) -> Located:
    """Find the file of an adapter, downloading no more than is needed.

    Args:
        name: see `acestep.adapters.reading.read_adapter`.

    Raises:
        UserError: when there is none, there are several, or it is a pickle.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return _of_file(path, name)
    on_hub = _HUB_FILE.fullmatch(name)
    if on_hub and not path.parent.is_dir():
        _refuse_others(Path(on_hub[2]), name)
        folder = Repository(on_hub[1], revision).fetch(on_hub[2], f"{Path(on_hub[2]).parent}/{PEFT_CONFIG}")
        if not (folder / on_hub[2]).is_file():
            raise UserError(f"{name}: {on_hub[1]} has no file {on_hub[2]}.")
        return _of_file(folder / on_hub[2], name)
    if path.suffix == ".safetensors" and not path.exists():
        raise UserError(f"{name}: no such file.")
    repository = Repository(name, revision)
    folder = repository.fetch(DIFFUSERS_FILE, PEFT_FILE, PEFT_CONFIG, SUMMARY)
    for known in (DIFFUSERS_FILE, PEFT_FILE):
        if (folder / known).is_file():
            return _of_file(folder / known, name)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    others = [file for file in files if file.suffix == ".safetensors" and file.name != _TRAINING_STATE]
    if len(others) == 1:
        return _of_file(others[0], name)
    if len(others) > 1:
        listed = ", ".join(file.name for file in others[:8])
        raise UserError(f"{name}: holds several .safetensors files ({listed}); give the path of one.")
    for file in files:
        if file.suffix in _PICKLES:
            _refuse_others(file, str(file))
    hint = "" if repository.is_local else " For another file on the Hub give user/name/file.safetensors."
    raise UserError(f"{name}: holds no {DIFFUSERS_FILE}, which train_lora.py writes, and no {PEFT_FILE}.{hint}")


def _of_file(path: Path, name: str) -> Located:
    _refuse_others(path, name)
    config = path.with_name(PEFT_CONFIG)
    return Located(path, config if path.name == PEFT_FILE and config.is_file() else None)


def _refuse_others(path: Path, name: str) -> None:
    if path.suffix in _PICKLES:
        raise UserError(
            f"{name}: ends with {path.suffix!r}; expected a .safetensors file. Pickles can run code and are not "
            "opened: save the adapter as safetensors where it was made."
        )
    if path.suffix != ".safetensors":
        raise UserError(f"{name}: ends with {path.suffix or 'nothing'!r}; expected a .safetensors file.")
