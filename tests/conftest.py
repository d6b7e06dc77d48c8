"""What all tests share: no network, and the checkpoints that the original code's results were recorded with."""

import os
import subprocess
import sys
from pathlib import Path

# Before any library reads them: a test that reaches for the network fails at once instead of waiting.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests run a process a core: more threads than that would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture
def run_script():
    """Run a public script as a user does; returns the finished process, with its output as text."""

    def run(script: str, *arguments, check: bool = True, env: dict[str, str] | None = None):
        process = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(env or {})},
        )
        if check and process.returncode != 0:
            raise AssertionError(f"{script} ended with {process.returncode}:\n{process.stdout}\n{process.stderr}")
        return process

    return run
