"""The script: exporting, looking at a file, and what it says when something is missing."""

import json
import runpy
import sys

import pytest

from acestep.adapters.export import adapter_name
from acestep.adapters.reading import read_adapter
from tests.conftest import REFERENCE, ROOT

LORA = REFERENCE / "base" / "lora_adapter"


@pytest.fixture
def export(monkeypatch, capsys):
    """The script in this process: its status, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["export_lora.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "scripts" / "export_lora.py"), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


def test_an_export_as_a_user_does_it(run_script, tmp_path):
    process = run_script(
        *("export_lora.py", "--lora", LORA, "--to", "comfyui", "--output_dir", tmp_path / "loras"),
        *("--pretrained_model_name_or_path", REFERENCE / "base"),
    )
    assert process.stderr == ""
    lines = process.stdout.splitlines()
    assert (
        "LoRA in the original tools' PEFT layout, rank 4, alpha 8 (strength 2), on 32 layers, 7,168 weights" in lines[0]
    )
    assert lines[1].startswith("read back: the update of each of 32 layers is as given, within ")
    assert lines[2].startswith("velocity of ")
    assert lines[-1] == f"wrote {tmp_path / 'loras' / 'lora_adapter.safetensors'}"
    assert read_adapter(tmp_path / "loras").layout == "comfyui"


@pytest.mark.parametrize("to", ["diffusers", "peft", "comfyui", "lora"])
def test_inspection_tells_layout_kind_ranks_alphas_layers_size_and_norms(export, tmp_path, to):
    assert export("--lora", LORA, "--to", to, "--output_dir", tmp_path)[0] == 0
    summary = {"model": "ACE-Step/acestep-v15-base", "dataset_rows": 5, "steps": 20, "effective_batch": 1}
    (tmp_path / "training_summary.json").write_text(json.dumps(summary))
    status, out, _ = export("--inspect", tmp_path)
    assert status == 0
    layout = {"peft": "the original tools' PEFT", "comfyui": "ComfyUI"}.get(to, "diffusers")
    strength = "rank 4, alpha 4 (strength 1)" if to == "lora" else "rank 4, alpha 8 (strength 2)"
    assert f"LoRA in {layout} layout, {strength}, on 32 layers" in out
    assert "trained on: model ACE-Step/acestep-v15-base, dataset rows 5, steps 20, effective batch 1" in out
    assert "x float32" in out
    adapter = read_adapter(tmp_path)
    layer = adapter.layers["layers.2.cross_attn.to_q"]
    expected = layer.scale * (layer.weights["lora_B.weight"] @ layer.weights["lora_A.weight"]).norm()
    table = [line.split() for line in out.splitlines()]
    header = next(row for row in table if row[:1] == ["block"])
    row = next(row for row in table if row[:1] == ["2"])
    assert float(row[header.index("cross.q")]) == pytest.approx(float(expected), rel=1e-3)


def test_inspection_of_a_dora_for_comfyui_needs_no_model(export, tmp_path):
    import peft
    import torch

    from acestep.models.checkpoint import Checkpoint
    from tests.adapters.making import make_adapter

    config = peft.LoraConfig(r=2, use_dora=True, target_modules=["to_q", "condition_embedder"])
    made = make_adapter("dora", Checkpoint(str(REFERENCE / "base")).transformer(torch.float32), tmp_path / "a", config)
    model = ("--pretrained_model_name_or_path", REFERENCE / "base")
    status, _, error = export("--lora", made.folder, "--to", "comfyui", "--output_dir", tmp_path / "b", *model)
    assert status == 0, error
    status, out, _ = export("--inspect", tmp_path / "b")
    assert status == 0
    assert "DoRA in ComfyUI layout" in out
    assert "norm of each update before the rows get their magnitudes" in out
    assert "condition_embedder  " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--lora is missing"),
        (("--lora", "x"), "--output_dir is missing"),
        (("--lora", "x", "--output_dir", "y"), "give either --to diffusers|peft|comfyui|lora or --fuse"),
        (("--lora", "x", "--output_dir", "y", "--to", "peft", "--fuse", "diffusers"), "give either"),
        (("--lora", "x", "--output_dir", "y", "--to", "peft", "--resize_rank", 0), "--resize_rank is 0; expected"),
        (("--lora", "x", "--output_dir", "y", "--to", "peft", "--scale", "nan"), "--scale is [nan]; expected numbers"),
        (("--lora", "x", "--output_dir", "y", "--to", "peft", "--merge_weights", 1, 2), "has 2 values; expected 1"),
        (("--lora", "x", "--output_dir", "y", "--to", "comfyui", "--file_name", "a/b"), "--file_name a/b: expected"),
        (
            ("--lora", "x", "--output_dir", "y", "--fuse", "original", "--bake_alpha"),
            "--fuse needs the model to fuse into",
        ),
        (("--lora", "./nowhere", "--output_dir", "y", "--to", "peft"), "./nowhere: no such folder"),
        (("--inspect", ROOT / "README.md"), "README.md: ends with '.md'; expected a .safetensors file"),
    ],
)
def test_what_is_missing_or_wrong_is_one_clear_line(export, arguments, message):
    status, _, error = export(*arguments)
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


def test_an_adapter_is_called_by_its_folder_or_file(tmp_path):
    names = {
        tmp_path / "songs" / "pytorch_lora_weights.safetensors": "songs",
        tmp_path / "songs" / "checkpoint-20": "songs-20",
        tmp_path / "songs" / "checkpoint-20" / "pytorch_lora_weights.safetensors": "songs-20",
        tmp_path / "songs.v2.safetensors": "songs.v2",
        "user/my-lora": "my-lora",
        "user/my-lora/file.safetensors": "file",
    }
    assert {path: adapter_name(str(path)) for path in names} == names
