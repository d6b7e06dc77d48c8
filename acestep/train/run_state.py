"""The state of a run, as its checkpoints hold it: everything that the next step depends on."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from acestep.errors import UserError
from acestep.train.checkpoints import SavedState
from acestep.train.optimizer_state import (
    group_settings,
    missing_weights,
    restore_group_settings,
    restore_training_tensors,
    training_tensors,
)
from acestep.train.progress import Progress
from acestep.train.validation import Best

if TYPE_CHECKING:
    from acestep.train.loop import Trainer


def capture_run(trainer: "Trainer") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A run's tensors and plain values.

    No random state is among them: every draw is keyed by the seed and its place, and the order of the songs and the
    learning rate are functions of the step.
    """
    tensors = training_tensors(trainer.named, _states(trainer))
    if trainer.average is not None:
        tensors |= trainer.average.tensors()
    if trainer.start is not None:
        tensors |= {f"start/{name}": weight for name, weight in trainer.start.weights.items()}
    return tensors, {
        "progress": asdict(trainer.progress),
        "run": trainer.identity,
        "evaluation_before": trainer.before,
        "base": trainer.base,
        "best": asdict(trainer.best),
        "optimizer_groups": group_settings(trainer.inner_optimizer),
        "average_count": trainer.average.count if trainer.average is not None else 0,
        "scaler": trainer.scaler.state_dict() if trainer.scaler is not None else None,
    }


def restore_run(trainer: "Trainer", saved: SavedState) -> None:
    """Put back what `capture_run` returned.

    Raises:
        UserError: for a checkpoint that lacks a weight of the adapter.
    """
    missing = missing_weights(saved.tensors, trainer.named)
    if missing:
        raise UserError(f"{saved.path}: holds no {missing[0]}, which the adapter has now.")
    states = _states(trainer)
    restore_training_tensors(saved.tensors, trainer.named, states)
    if trainer.zero is not None:
        trainer.zero.share_out(states)
    restore_group_settings(saved.state["optimizer_groups"], trainer.inner_optimizer)
    if trainer.average is not None:
        trainer.average.restore(saved.tensors, saved.state["average_count"])
    if trainer.scaler is not None and saved.state["scaler"]:
        trainer.scaler.load_state_dict(saved.state["scaler"])
    trainer.progress, trainer.best = Progress(**saved.state["progress"]), Best(**saved.state["best"])
    trainer.before, trainer.base = saved.state["evaluation_before"], saved.state["base"]
    for _ in range(trainer.progress.step):  # a function of the number of steps alone
        trainer.scheduler.step()


def _states(trainer: "Trainer") -> Any:
    """What holds the optimizer's states by weight."""
    return trainer.inner_optimizer if trainer.zero is None else trainer.zero.whole_states()
