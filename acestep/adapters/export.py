"""The export: read, change, write, read back, compare; what fails leaves nothing behind."""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from acestep.adapters.adapter import Adapter
from acestep.adapters.applying import check_shapes
from acestep.adapters.changing import Base, baked, cast, merged, resized, scaled
from acestep.adapters.checking import TOLERANCE, Comparison, compare_updates, velocity_difference, velocity_with
from acestep.adapters.fusing import write_fused
from acestep.adapters.inspecting import summary_line, training_summary
from acestep.adapters.locating import DIFFUSERS_FILE, PEFT_FILE
from acestep.adapters.options import ExportOptions
from acestep.adapters.reading import read_adapter
from acestep.adapters.updates import exact_rank
from acestep.adapters.writing import KINDS_OF, write_adapter
from acestep.errors import UserError
from acestep.models.checkpoint import Checkpoint

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, None: None}
LISTED = 12  # layers whose costs are printed one by one
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

Weighted = Sequence[tuple[Adapter, float]]


def export(options: ExportOptions, say: Callable[[str], None] = print) -> list[Path]:
    """Do what the options say, checked before anything appears in `--output_dir`.

    Returns:
        The files written, or the folder of a fused model.

    Raises:
        UserError: for what cannot be read, held by the layout or done without the model, and when what was written is
            not what it should be.
    """
    options.check()
    checkpoint = base = None
    if options.pretrained_model_name_or_path is not None:
        checkpoint = Checkpoint(
            options.pretrained_model_name_or_path, options.variant, options.bundle, options.revision
        )
        base = checkpoint.weights("transformer")
    sources = []
    for name in (options.lora, *options.merge):
        source = read_adapter(name, options.lora_revision, base)
        if base is not None:
            check_shapes(source, lambda layer: _shape(base, layer), f"{name} on {checkpoint.name}")
        say(summary_line(source))
        for warning in source.warnings:
            say(f"warning: {warning}")
        sources.append(source)
    expected = list(zip(sources, options.weights, strict=True))
    if options.fuse:
        return _fuse(options, checkpoint, expected, say)
    return _write(options, checkpoint, base, expected, say)


def _write(
    options: ExportOptions, checkpoint: Checkpoint | None, base: Base | None, expected: Weighted, say: Callable
) -> list[Path]:
    output_dir = Path(options.output_dir)
    adapter, lossy = _changed(options, base, expected, say)
    file_name = options.file_name or f"{adapter_name(options.lora)}.safetensors"
    name = {"comfyui": file_name, "peft": PEFT_FILE}.get(options.to, DIFFUSERS_FILE)
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"--output_dir {output_dir}: is a file; expected a folder.")
    if (output_dir / name).exists():
        raise UserError(f"--output_dir {output_dir}: holds {name} already. Choose another folder or remove it.")
    base_model = public_name(checkpoint) if checkpoint else _trained_on(expected)
    made = [folder for folder in output_dir.parents if not folder.exists()]
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=output_dir.parent, prefix=f".{output_dir.name}-"))
    try:
        files = write_adapter(
            adapter,
            options.to,
            staging,
            file_name=file_name,
            prefix=options.comfyui_prefix,
            base_model=base_model,
            base=base,
        )
        _check(read_adapter(files[0], base=base), adapter, expected, lossy, checkpoint, base, say)
        output_dir.mkdir(exist_ok=True)
        umask_free = output_dir.stat().st_mode & 0o666
        for file in files:
            file.chmod(umask_free)  # safetensors keeps its files to the owner
        written = [file.replace(output_dir / file.name) for file in files]
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    say(f"load it with: {_loading(adapter, options.to, written[0])}")
    return written


def _loading(adapter: Adapter, layout: str, file: Path) -> str:
    if layout == "comfyui":
        return "ComfyUI's LoraLoaderModelOnly at strength 1, with the file in models/loras"
    if layout == "peft":
        return f'peft.PeftModel.from_pretrained(decoder, "{file.parent}"), as the original tools do'
    if adapter.kind == "lokr":
        return f'pipeline.transformer.load_lora_adapter("{file.parent}", weight_name="{file.name}")'
    return f'pipeline.load_lora_weights("{file.parent}")'


def _changed(options: ExportOptions, base: Base | None, expected: Weighted, say: Callable) -> tuple[Adapter, bool]:
    """The adapter to write, and whether anything was rounded off on the way."""
    (adapter, factor), dtype = expected[0], DTYPES[options.dtype]
    weights_for_resizing = None
    if len(expected) > 1:
        adapter = merged([source for source, _ in expected], [weight for _, weight in expected])
    elif factor != 1 and adapter.kind == "oft" and options.resize_rank is not None:
        weights_for_resizing = factor  # of a turn there is no part, of its update there is
    else:
        adapter = scaled(adapter, factor, base)
    if options.resize_rank is not None:
        keep_dora = "dora" in KINDS_OF[options.to] and options.to != "comfyui"
        adapter, kept = resized(adapter, options.resize_rank, base, keep_dora)
        if weights_for_resizing is not None:
            adapter = scaled(adapter, weights_for_resizing)
        say(f"rank {options.resize_rank}: {100 * kept:.4f} % of the updates' squared norm is kept")
    if adapter.kind not in KINDS_OF[options.to]:
        raise UserError(f"--to {options.to}: {_READERS[options.to]} no {adapter.label}. {_way_out(adapter)}")
    if options.bake_alpha or options.to == "lora":
        adapter = baked(adapter)
    if dtype is not None:
        adapter = cast(adapter, dtype)
    return adapter, options.resize_rank is not None or dtype is not None


_READERS = {
    "diffusers": "AceStepPipeline plays",
    "comfyui": "ComfyUI plays",
    "lora": "a plain LoRA is",
}


def _way_out(adapter: Adapter) -> str:
    rank = exact_rank(adapter)
    if rank is not None:
        return (
            f"A plain LoRA of rank {rank} is the same; one of a lower rank costs what is then printed: --resize_rank R."
        )
    return (
        "A plain LoRA comes close, at a cost that is then printed: --resize_rank R, with "
        "--pretrained_model_name_or_path. --to peft and --fuse keep it as it is."
    )


def _check(
    found: Adapter,
    wanted: Adapter,
    expected: Weighted,
    lossy: bool,
    checkpoint: Checkpoint | None,
    base: Base | None,
    say: Callable,
) -> None:
    """Compare what was read back with what was to be written, and with what the sources do.

    Raises:
        UserError: when it is something else.
    """
    compared = compare_updates(found, [(wanted, 1.0)] if lossy else expected, base, floor=1e-2)
    name, difference = compared.worst
    if not difference <= TOLERANCE:
        raise UserError(f"what was written is not what was to be: {name} is off by {difference:.1e} of its norm.")
    if lossy:
        _say_cost(compare_updates(found, expected, base), say)
    else:
        what = "update" if compared.on_base else "factors (the update depends on the model)"
        say(f"read back: the {what} of each of {len(compared.layers)} layers is as given, within {difference:.1e}")
    if checkpoint is None:
        say("not compared on a model: --pretrained_model_name_or_path would do that")
        return
    velocity = velocity_with(checkpoint, [(found, 1.0)])
    if lossy:
        _check_velocity(velocity, velocity_with(checkpoint, [(wanted, 1.0)]), checkpoint)
        difference = velocity_difference(velocity, velocity_with(checkpoint, expected))
        say(
            f"velocity of {checkpoint.name}: off by {difference:.1e} of its largest value from that with what was given"
        )
    else:
        difference = _check_velocity(velocity, velocity_with(checkpoint, expected), checkpoint)
        say(f"velocity of {checkpoint.name}: as with what was given, within {difference:.1e} of its largest value")


def _check_velocity(found: torch.Tensor, wanted: torch.Tensor, checkpoint: Checkpoint) -> float:
    difference = velocity_difference(found, wanted)
    if not difference <= TOLERANCE:
        raise UserError(
            f"with what was written the velocity of {checkpoint.name} is off by {difference:.1e} of its largest value; "
            f"expected {TOLERANCE:.0e} at most."
        )
    return difference


def _say_cost(compared: Comparison, say: Callable) -> None:
    costs = sorted(compared.layers.items(), key=lambda item: -item[1])
    listed = costs if len(costs) <= LISTED else costs[: LISTED - 1]
    for name, cost in listed:
        say(f"  {name}: the update is off by {cost:.2e} of its norm")
    if len(costs) > len(listed):
        say(f"  the other {len(costs) - len(listed)} layers: by at most {costs[len(listed)][1]:.2e}")
    what = "the updates are" if compared.on_base else "the factors (before the model's weights come in) are"
    say(f"all together {what} off by {compared.overall:.2e} of their norm")


def _fuse(options: ExportOptions, checkpoint: Checkpoint, expected: Weighted, say: Callable) -> list[Path]:
    output_dir, dtype = Path(options.output_dir), DTYPES[options.dtype]
    made = [folder for folder in output_dir.parents if not folder.exists()]
    cost = write_fused(checkpoint, expected, output_dir, options.fuse, dtype, lambda name: say(f"writing {name}"))
    try:
        found, wanted = velocity_with(Checkpoint(str(output_dir)), []), velocity_with(checkpoint, expected)
        if cost is None:
            difference = _check_velocity(found, wanted, checkpoint)
        else:
            difference = velocity_difference(found, wanted)
            say(f"storing the sums rounded them, by {cost:.2e} of the updates' norm")
        say(f"velocity of the fused model: within {difference:.1e} of its largest value of that with the adapter on")
    except BaseException:
        shutil.rmtree(output_dir, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else has put something in
            for folder in made:
                folder.rmdir()
        raise
    say(f"open it with: --pretrained_model_name_or_path {output_dir}")
    return [output_dir]


def adapter_name(path_or_id: str) -> str:
    """What a person calls an adapter: the file's or folder's name, the Hub repository's."""
    path = Path(path_or_id)
    is_known = path.name in (DIFFUSERS_FILE, PEFT_FILE)
    name = path.resolve().parent.name if is_known else path.resolve().name.removesuffix(".safetensors")
    if name.startswith("checkpoint-"):
        name = f"{path.resolve().parents[1 if is_known else 0].name}-{name.removeprefix('checkpoint-')}"
    return name or "adapter"


def public_name(checkpoint: Checkpoint) -> str:
    """The model's Hub id, or the name of its folder; never a path, which would tell of the user's machine."""
    layout = checkpoint.layout
    if layout.repository.is_local:
        return layout.variant_folder or layout.repository.local.resolve().name
    return checkpoint.name


def _trained_on(expected: Weighted) -> str:
    for adapter, _ in expected:
        name = adapter.base_model or adapter.header.get("base_model") or str(training_summary(adapter).get("model", ""))
        if name:
            return name if _HUB_ID.fullmatch(name) and not Path(name).exists() else Path(name).name
    return ""


def _shape(base: Base, layer: str) -> tuple[int, int] | None:
    name = f"{layer}.weight"
    return base.shape(name) if name in base else None
