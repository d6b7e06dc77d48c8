"""What the scripts around a folder of songs understand and say."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def _run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("how", ["positional", "option", "recipe"])
def test_clean_lrc_takes_a_positional_an_option_or_a_recipe(tmp_path, how):
    file, recipe = tmp_path / "a.txt", tmp_path / "recipe.yaml"
    file.write_text("[00:01.00]one\n")
    recipe.write_text(f"path: {file}\nbackup: false\n")
    arguments = {
        "positional": [file, "--no_backup"],
        "option": ["--path", file, "--no_backup"],
        "recipe": ["--config", recipe],
    }[how]
    process = _run("lora_data_prepare/clean_lrc.py", *arguments)
    assert process.stderr == ""
    assert f"cleaned {file}: 1 time stamp or id tag\n1 of 1 file cleaned, 0 failed\n" == process.stdout
    assert file.read_text() == "one\n"
    assert not (tmp_path / "a.txt.bak").exists()


def test_samples_that_an_import_leaves_out_are_listed_and_counted(folder):
    samples = [{"filename": "song1.wav", "caption": "c"}, {"filename": "none.wav"}]
    folder.song().write("d.json", json.dumps({"samples": samples}))
    arguments = ["--data_dir", folder.root, "--import_json", folder.root / "d.json"]
    process = _run("inspect_dataset.py", *arguments, "--overwrite")
    assert process.returncode == 1
    assert "wrote 1 file beside the songs" in process.stdout
    assert process.stdout.count("fits no song in the folder") == 1
    assert "  1 JSON sample skipped, " in process.stdout
    assert "what was skipped (1 JSON sample): the exit status is 1 because of it" in process.stdout
    content = json.loads(_run("inspect_dataset.py", *arguments, "--overwrite", "--json").stdout)
    assert [skipped["kind"] for skipped in content["skipped"]] == ["json_sample"]
    assert content["totals"]["skipped_by_kind"]["json_sample"] == 1
