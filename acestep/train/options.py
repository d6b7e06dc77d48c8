"""Options of training: names as diffusers' example scripts have them."""

import sys
from dataclasses import dataclass

from acestep.errors import UserError
from acestep.options import option, required

TIMESTEP_LAWS = ("auto", "logit_normal_max", "logit_normal", "turbo", "uniform")
LOSS_WEIGHTINGS = ("none", "min_snr")
ADAPTERS = ("lora", "dora", "lokr", "loha", "oft")
STARTS = ("default", "gaussian", "pissa", "pissa_niter_16", "eva")
OPTIMIZERS = ("adamw", "adamw8bit", "paged_adamw8bit", "adafactor", "prodigy")
PRECISIONS = ("no", "bf16", "fp16")
ATTENTIONS = ("auto", "blockwise", "flex", "native")
SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "piecewise_constant",
)

_LARGEST, _SMALLEST = sys.float_info.max, sys.float_info.min  # not a number and infinity lie outside
_COUNTS = (
    *("rank", "num_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps"),
    *("logging_steps", "checkpoints_total_limit", "lr_num_cycles", "validation_draws", "validation_steps"),
)
_NOT_NEGATIVE = (
    *("dataloader_num_workers", "lr_warmup_steps", "save_every_n_epochs", "checkpointing_steps", "evaluation_draws"),
    *("checkpoint_every_minutes", "max_grad_norm", "adam_weight_decay", "loraplus_lr_ratio", "crop_seconds"),
    *("early_stopping_patience", "preview_steps"),
)
_RANGES = (
    (_COUNTS, 1, _LARGEST, "at least 1"),
    (_NOT_NEGATIVE, 0, _LARGEST, "0 or more"),
    (("learning_rate", "adam_epsilon", "snr_gamma", "lora_alpha", "lr_power"), _SMALLEST, _LARGEST, "more than 0"),
    (
        ("adam_beta1", "adam_beta2", "lora_dropout", "ema_decay", "validation_split"),
        *(0, 1 - 1e-12, "at least 0 and less than 1"),
    ),
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
    lora_dropout: float = option(0.0, "share of what the adapter sees that is left out at random while training")
    target_modules: list[str] = option(
        ["attention"],
        "linear layers that get an adapter: attention, self_attn, cross_attn, mlp, names such as to_q to_out.0 "
        "gate_proj, or regular expressions for full names such as 'layers.*self_attn.to_[qv]'",
    )
    layers: list[str] | None = option(
        None, "only these blocks of the transformer: numbers and ranges such as 3 8-11; default: all"
    )
    rank_pattern_file: str | None = option(
        None, "YAML file with rank_pattern and alpha_pattern: other ranks and alphas for the layers that a name matches"
    )
    init_lora_weights: str = option("default", "how a lora or dora starts; pissa and eva for lora only", STARTS)
    init_lora: str | None = option(
        None, "adapter to start from, a folder, file or Hub id; its kind, rank, alpha and layers are taken over"
    )

    num_train_epochs: int = option(500, "passes over the songs")
    max_train_steps: int | None = option(None, "optimizer steps; wins over --num_train_epochs")
    train_batch_size: int = option(1, "songs at once on each device; shorter ones are padded, and padding is masked")
    gradient_accumulation_steps: int = option(1, "batches a step; the effective batch is this x batch x processes")
    group_by_length: bool = option(False, "songs of similar length share a step: less padding, less waiting")
    crop_seconds: float = option(
        0.0, "train on random crops of this length, with the whole song's prompt and lyrics (0: whole songs)"
    )
    dataloader_num_workers: int = option(0, "processes that read and draw ahead of the device")

    optimizer: str = option(
        "adamw", "8-bit ones need less memory, paged ones still less on the GPU; prodigy finds its rate", OPTIMIZERS
    )
    loraplus_lr_ratio: float = option(0.0, "LoRA+: learning rate of the B matrices over the others' (0: the same)")
    learning_rate: float | None = option(None, "peak learning rate; default: 1e-4, for prodigy 1")
    lr_scheduler: str = option("cosine", "schedule of the learning rate", SCHEDULES)
    lr_warmup_steps: int | None = option(None, "steps of linear warm-up; default: a tenth of all steps, at most 100")
    lr_num_cycles: int = option(1, "restarts of --lr_scheduler cosine_with_restarts")
    lr_power: float = option(1.0, "power of --lr_scheduler polynomial")
    lr_step_rules: str | None = option(
        None, "--lr_scheduler piecewise_constant: factors and steps, such as '1:100,0.1:500,0.01'"
    )
    adam_beta1: float = option(0.9, "AdamW's beta1")
    adam_beta2: float = option(0.999, "AdamW's beta2")
    adam_weight_decay: float = option(0.01, "AdamW's weight decay")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm (0: not clipped)")
    ema_decay: float = option(0.0, "also keep an exponential mean of the adapter, such as 0.999, in ema/ (0: none)")

    timestep_law: str = option("auto", "how t is drawn; auto: the model's own law by variant", TIMESTEP_LAWS)
    condition_dropout: float | None = option(
        None, "share of samples trained without a condition; default: 0.15, for turbo 0"
    )
    loss_weighting: str = option("none", "weight of the loss by t", LOSS_WEIGHTINGS)
    snr_gamma: float = option(5.0, "gamma of --loss_weighting min_snr")
    sample_latents: bool = option(False, "draw latents from the VAE's posterior instead of taking its mean")

    mixed_precision: str | None = option(
        None,
        "dtype of the frozen model and of its arithmetic; default: what accelerate was launched with. fp16 is for "
        "cards without bf16",
        PRECISIONS,
    )
    quantization: str = option("none", "of the frozen model by bitsandbytes", ["none", "int8", "nf4"])
    gradient_checkpointing: bool = option(False, "compute activations twice to keep few of them in memory")
    attention: str = option(
        "auto", "attention of the transformer; native is diffusers' own, without masks for padding", ATTENTIONS
    )
    compile: bool = option(False, "compile the transformer's layers with torch.compile")
    seed: int = option(0, "the same seed gives the same run, whatever the batch layout")

    validation_dataset: str | None = option(
        None, "held-out songs: folder or Hub id; default: the validation split of --dataset, if it has one"
    )
    validation_split: float = option(0.0, "hold out about this share of the songs of --dataset, chosen by their ids")
    validation_steps: int | None = option(None, "validate after every so many steps; default: twenty times in the run")
    validation_draws: int = option(8, "noise levels a held-out song is measured at, the same ones every time")
    early_stopping_patience: int = option(
        0, "stop when so many validations in a row found no better adapter (0: never)"
    )
    preview_prompts: str | None = option(None, "YAML or JSONL file with prompts to generate from while training")
    preview_steps: int = option(0, "generate from --preview_prompts after every so many steps (0: only at the end)")

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
    push_to_hub: bool = option(False, "upload the adapter, its card, picture and previews to --hub_model_id at the end")
    hub_model_id: str | None = option(None, "repository on the Hub, user/name; a new one is private")
    hub_public: bool = option(False, "make a new repository public")
    push_checkpoints: bool = option(False, "upload the adapter of each checkpoint too, in the background")
    license: str | None = option(None, "licence of the adapter for its card, such as apache-2.0 or cc-by-nc-4.0")
    rights: str | None = option(None, "your statement about the rights in the music, for the card")
    report_to: list[str] = option(["none"], "trackers besides metrics.jsonl: tensorboard, wandb, trackio")
    cpu: bool = option(False, "train on the CPU although there is a GPU")

    def check(self) -> None:
        """Raise UserError for values that make no sense, and for options that do not go together."""
        for names, low, high, expected in _RANGES:
            for name in names:
                value = {"lora_alpha": self.alpha, "learning_rate": self.peak_learning_rate}.get(
                    name, getattr(self, name)
                )
                if value is not None and not low <= value <= high:
                    raise UserError(f"--{name} is {value}; expected {expected}.")
        self._check_adapter()
        self._check_optimizer()
        if self.validation_split and self.validation_dataset:
            raise UserError("--validation_split and --validation_dataset: choose one of them.")
        if self.push_to_hub != bool(self.hub_model_id):
            raise UserError("--push_to_hub and --hub_model_id: each needs the other.")
        if self.push_checkpoints and not self.push_to_hub:
            raise UserError("--push_checkpoints: needs --push_to_hub.")
        if self.preview_steps and not self.preview_prompts:
            raise UserError("--preview_steps: needs --preview_prompts, the file with what to generate.")

    def _check_adapter(self) -> None:
        if self.adapter not in ("lora", "dora"):
            if self.use_rslora:
                raise UserError(f"--use_rslora: has no meaning for --adapter {self.adapter}; it is for lora and dora.")
            if self.loraplus_lr_ratio:
                raise UserError(
                    f"--loraplus_lr_ratio: --adapter {self.adapter} has no B matrices, as lora and dora do."
                )
        if self.adapter in ("lokr", "loha") and self.quantization == "nf4":
            raise UserError(
                f"--adapter {self.adapter} --quantization nf4: PEFT (0.21) cannot put it on layers of 4 bits. Use "
                "--quantization int8, or --adapter lora."
            )
        if self.adapter == "oft":
            if self.rank_pattern_file:
                raise UserError("--rank_pattern_file: PEFT has no patterns for --adapter oft.")
            if self.lora_dropout:  # PEFT takes module_dropout and applies it nowhere (0.21)
                raise UserError("--lora_dropout: PEFT's --adapter oft has no dropout.")
        start = self.init_lora_weights
        if start != "default":
            if self.init_lora:
                raise UserError(f"--init_lora_weights {start}: --init_lora says how the adapter starts; leave one out.")
            allowed = ("lora", "dora") if start == "gaussian" else ("lora",)
            if self.adapter not in allowed:
                raise UserError(f"--init_lora_weights {start}: is for --adapter {' or '.join(allowed)}.")
        if start.startswith("pissa") and self.quantization != "none":
            raise UserError(
                f"--init_lora_weights {start}: changes the weights of the model, which are in fewer bits with "
                f"--quantization {self.quantization}. Use eva or gaussian, or leave --quantization out."
            )

    def _check_optimizer(self) -> None:
        if self.lr_warmup_steps and self.lr_scheduler in ("constant", "piecewise_constant"):
            raise UserError(
                f"--lr_warmup_steps: --lr_scheduler {self.lr_scheduler} has no warm-up; use constant_with_warmup."
            )
        if (self.lr_step_rules is None) == (self.lr_scheduler == "piecewise_constant"):
            raise UserError("--lr_step_rules and --lr_scheduler piecewise_constant: each needs the other.")
        if self.optimizer == "prodigy" and self.loraplus_lr_ratio:
            raise UserError("--loraplus_lr_ratio: --optimizer prodigy has one learning rate for all weights.")

    @property
    def alpha(self) -> float:
        return self.rank if self.lora_alpha is None else self.lora_alpha

    @property
    def peak_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return 1.0 if self.optimizer == "prodigy" else 1e-4

    def warmup_steps(self, steps: int) -> int:
        """Warm-up of a run of `steps` steps."""
        return min(100, steps // 10) if self.lr_warmup_steps is None else self.lr_warmup_steps

    def validation_every(self, steps: int) -> int:
        """Steps between validations of a run of `steps` steps."""
        return self.validation_steps or max(1, steps // 20)
