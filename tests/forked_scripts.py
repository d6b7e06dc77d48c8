"""Public scripts in forks of a process that has imported the libraries: a run costs no start of Python and torch.

A fork is a process like any other: it may be killed, and leaves behind what a killed run leaves.
"""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
IMPORTS = """
import accelerate, datasets, diffusers, huggingface_hub, pyarrow.parquet, torch, transformers
import acestep.dataset.assemble, acestep.dataset.encoder, acestep.dataset.prepare, acestep.dataset.publish
from diffusers import AceStepPipeline, AutoencoderOobleck
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from transformers import AutoModel, AutoTokenizer
torch.set_num_threads(1)
"""


class ForkedScripts:
    """Runs scripts while the context is open.

    Args:
        environment: of the process that imports the libraries, some of which read it then.
    """

    def __init__(self, environment: Mapping[str, str]):
        self._environment = {**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._runs = 0

    def __enter__(self) -> "ForkedScripts":
        self._folder = tempfile.TemporaryDirectory(prefix="forked-scripts-")
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd=ROOT,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()  # its libraries would take seconds to say goodbye
        self._server.wait()
        self._server.stdin.close()
        self._server.stdout.close()
        self._folder.cleanup()

    def start(self, script: str, *arguments: object, **variables: str) -> "ScriptRun":
        """Start `scripts/<script>` with further environment variables."""
        self._runs += 1
        logs = [f"{self._folder.name}/{self._runs}.{name}" for name in ("out", "err")]
        command = [str(ROOT / "scripts" / script), *map(str, arguments)]
        pid = self.ask({"command": command, "variables": variables, "logs": logs})
        return ScriptRun(self, pid, command, logs)

    def run(self, script: str, *arguments: object, check: bool = True, **variables: str) -> subprocess.CompletedProcess:
        """Run `scripts/<script>` to its end."""
        done = self.start(script, *arguments, **variables).wait()
        if check and done.returncode != 0:
            raise AssertionError(f"{script} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def ask(self, request: dict[str, Any]) -> Any:
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


class ScriptRun:
    """A script that is running.

    Attributes:
        seconds: how long it took, once it has been waited for.
    """

    def __init__(self, scripts: ForkedScripts, pid: int, command: list[str], logs: list[str]):
        self.scripts, self.pid, self.command, self.logs = scripts, pid, command, logs

    def kill(self) -> None:
        """As `kill -9` does."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, limit: float = 600.0) -> subprocess.CompletedProcess:
        """Wait for its end, which is made after `limit` seconds; the status of what was killed is -9."""
        status, self.seconds = self.scripts.ask({"wait": self.pid, "limit": limit})
        out, err = (Path(log).read_text(encoding="utf-8", errors="replace") for log in self.logs)
        return subprocess.CompletedProcess(self.command, status, out, err)


def serve() -> None:
    """Fork for each command on standard input; tell its process, and when asked its end."""
    from acestep.quiet import quiet_libraries

    quiet_libraries()
    exec(IMPORTS, {})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    began: dict[int, float] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "command" in request:
            pid = os.fork()
            if pid == 0:
                _become(**request)
            began[pid] = time.monotonic()
            answer: Any = pid
        else:
            pid = request["wait"]
            status = _end(pid, began[pid] + request["limit"])
            answer = [os.waitstatus_to_exitcode(status), time.monotonic() - began[pid]]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _become(command: list[str], variables: dict[str, str], logs: list[str]) -> None:
    """Run a script in this process, and end it."""
    os.setpgid(0, 0)
    for target, path in ((0, os.devnull), *zip((1, 2), logs, strict=True)):
        os.dup2(os.open(path, os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_CREAT), target)
    os.environ.update(variables)
    sys.argv, status = command, 0
    sys.path[0] = str(Path(command[0]).parent)
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _end(pid: int, limit: float) -> int:
    while time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
    serve()
