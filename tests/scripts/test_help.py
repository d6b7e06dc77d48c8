"""`--help` of every script answers without loading the heavy libraries."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("scripts", "scripts/lora_data_prepare")
    for path in (ROOT / folder).glob("*.py")
)
HEAVY = ("torch", "diffusers", "peft", "accelerate", "datasets", "matplotlib")
ASK_ALL = """
import contextlib, io, json, runpy, sys
from pathlib import Path
heavy, found = sys.argv[1].split(","), {}
for script in sys.argv[2:]:
    sys.argv[:] = [script, "--help"]
    sys.path.insert(0, str(Path(script).parent))
    status, out = None, io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
    loaded = [name for name in heavy if sys.modules.pop(name, None)]
    found[script] = {"status": status, "help": out.getvalue(), "loaded": loaded}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers():
    command = [sys.executable, "-c", ASK_ALL, ",".join(HEAVY), *SCRIPTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_describes_the_script_and_loads_nothing_heavy(script, answers):
    answer = answers[script]
    assert answer["status"] == 0
    assert answer["loaded"] == []
    assert f"python {script}" in answer["help"] or f"launch {script}" in answer["help"]
    assert "options:" in answer["help"]
