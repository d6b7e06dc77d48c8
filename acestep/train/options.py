"""Options of training: names as diffusers' example scripts have them."""

import sys
from dataclasses import dataclass

from acestep.errors import UserError
from acestep.options import option, required

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TIMESTEP_LAWS = ("auto", "logit_normal_max", "logit_normal", "turbo", "uniform")
LOSS_WEIGHTINGS = ("none", "min_snr")
ADAPTERS = ("lora", "dora", "lokr", "loha", "oft")
OPTIMIZERS = ("adamw", "adamw8bit", "paged_adamw8bit", "adafactor")
PRECISIONS = ("no", "bf16")
MLP = ("gate_proj", "up_proj", "down_proj")
SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
)

_LARGEST, _SMALLEST = sys.float_info.max, sys.float_info.min  # not a number and infinity lie outside
_COUNTS = (
    *("rank", "num_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps"),
    *("logging_steps", "checkpoints_total_limit"),
)
_NOT_NEGATIVE = (
    *("dataloader_num_workers", "lr_warmup_steps", "save_every_n_epochs", "checkpointing_steps", "evaluation_draws"),
    *("checkpoint_every_minutes", "max_grad_norm", "adam_weight_decay", "loraplus_lr_ratio", "crop_seconds"),
)
_RANGES = (
    (_COUNTS, 1, _LARGEST, "at least 1"),
    (_NOT_NEGATIVE, 0, _LARGEST, "0 or more"),
    (("learning_rate", "adam_epsilon", "snr_gamma", "lora_alpha"), _SMALLEST, _LARGEST, "more than 0"),
    (("adam_beta1", "adam_beta2"), 0, 1 - 1e-12, "at least 0 and less than 1"),
    (("condition_dropout",), 0, 1, "a share from 0 to 1"),
)


@dataclass
class TrainOptions:
    dataset: str = required("folder that prepare_dataset.py wrote, or Hub id of a dataset that it uploaded")
    pretrained_model_name_or_path: str = required("folder or Hub id of the model, the one the dataset was made for")
    output_dir: str = required("folder for the adapter, its checkpoints and the metrics")
    streaming: bool = option(
        False, "read each song from the Hub when it is its turn, without downloading the dataset; the run is the same"
    )
    dataset_revision: str | None = option(None, "branch, tag or commit of a Hub dataset")
    variant: str | None = option(None, "which model of an original bundle, such as base, sft, turbo or xl-base")
    revision: str | None = option(None, "branch, tag or commit of a Hub model")
    overwrite_output_dir: bool = option(False, "train into an --output_dir that holds an adapter already")

    adapter: str = option("lora", "kind of adapter; diffusers' pipelines load lora and dora", ADAPTERS)
    rank: int = option(64, "rank of the adapter; for oft the size of its blocks")
    lora_alpha: float | None = option(None, "the update counts alpha / rank; default: the rank")
    use_rslora: bool = option(False, "rank-stabilised LoRA: the update counts alpha / sqrt(rank)")
    target_modules: list[str] = option(
        ["attention"], "linear layers that get a LoRA: 'attention', 'mlp', or names such as to_q to_out.0 gate_proj"
    )

    num_train_epochs: int = option(500, "passes over the songs")
    max_train_steps: int | None = option(None, "optimizer steps; wins over --num_train_epochs")
    train_batch_size: int = option(1, "songs at once on each device; more than 1 needs songs or crops of one length")
    gradient_accumulation_steps: int = option(1, "batches a step; the effective batch is this x batch x processes")
    crop_seconds: float = option(
        0.0, "train on random crops of this length, with the whole song's prompt and lyrics (0: whole songs)"
    )
    dataloader_num_workers: int = option(0, "processes that read and draw ahead of the device")

    optimizer: str = option("adamw", "8-bit ones need less memory, paged ones still less on the GPU", OPTIMIZERS)
    loraplus_lr_ratio: float = option(0.0, "LoRA+: learning rate of the B matrices over the others' (0: the same)")
    learning_rate: float = option(1e-4, "peak learning rate")
    lr_scheduler: str = option("cosine", "schedule of the learning rate", SCHEDULES)
    lr_warmup_steps: int | None = option(None, "steps of linear warm-up; default: a tenth of all steps, at most 100")
    adam_beta1: float = option(0.9, "AdamW's beta1")
    adam_beta2: float = option(0.999, "AdamW's beta2")
    adam_weight_decay: float = option(0.01, "AdamW's weight decay")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm (0: not clipped)")

    timestep_law: str = option("auto", "how t is drawn; auto: the model's own law by variant", TIMESTEP_LAWS)
    condition_dropout: float | None = option(
        None, "share of samples trained without a condition; default: 0.15, for turbo 0"
    )
    loss_weighting: str = option("none", "weight of the loss by t", LOSS_WEIGHTINGS)
    snr_gamma: float = option(5.0, "gamma of --loss_weighting min_snr")
    sample_latents: bool = option(False, "draw latents from the VAE's posterior instead of taking its mean")

    mixed_precision: str | None = option(
        None, "dtype of the frozen model and of its arithmetic; default: what accelerate was launched with", PRECISIONS
    )
    quantization: str = option("none", "of the frozen model by bitsandbytes", ["none", "int8", "nf4"])
    gradient_checkpointing: bool = option(False, "compute activations twice to keep few of them in memory")
    seed: int = option(0, "the same seed gives the same run, whatever the batch layout")

    save_every_n_epochs: int = option(0, "save checkpoint-STEP after every so many epochs (0: never)")
    checkpointing_steps: int = option(0, "save checkpoint-STEP after every so many steps (0: never)")
    checkpoint_every_minutes: float = option(0.0, "save checkpoint-STEP when so many minutes have passed (0: never)")
    checkpoints_total_limit: int | None = option(None, "keep only so many checkpoints, the newest ones")
    resume_from_checkpoint: str | None = option(
        None, "go on from a checkpoint: its folder, or 'latest', the newest whole one in --output_dir"
    )
    allow_resume_mismatch: bool = option(False, "go on although the run was begun with other options")
    logging_steps: int = option(1, "write the metrics of every so many steps")
    evaluation_draws: int = option(
        4, "noise levels at which the loss on all songs is measured with fixed noise before and after (0: not measured)"
    )
    report_to: list[str] = option(["none"], "trackers besides metrics.jsonl: tensorboard, wandb, trackio")
    cpu: bool = option(False, "train on the CPU although there is a GPU")

    def check(self) -> None:
        """Raise UserError for values that make no sense, and for options that do not go together."""
        for names, low, high, expected in _RANGES:
            for name in names:
                value = self.alpha if name == "lora_alpha" else getattr(self, name)
                if value is not None and not low <= value <= high:
                    raise UserError(f"--{name} is {value}; expected {expected}.")
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise UserError("--lr_warmup_steps: --lr_scheduler constant has no warm-up; use constant_with_warmup.")
        if self.adapter not in ("lora", "dora"):
            if self.use_rslora:
                raise UserError(f"--use_rslora: has no meaning for --adapter {self.adapter}; it is for lora and dora.")
            if self.loraplus_lr_ratio:
                raise UserError(
                    f"--loraplus_lr_ratio: --adapter {self.adapter} has no B matrices, as lora and dora do."
                )

    @property
    def alpha(self) -> float:
        return self.rank if self.lora_alpha is None else self.lora_alpha

    def warmup_steps(self, steps: int) -> int:
        """Warm-up of a run of `steps` steps."""
        return min(100, steps // 10) if self.lr_warmup_steps is None else self.lr_warmup_steps
