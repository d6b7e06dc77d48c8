"""Kills a run at each moment when it touches its checkpoints, and lets it go on: run as a program by a test.

    python -m tests.train.killing OUTPUT_DIR OPTION ...

The real trainer runs in a forked process; Python's own audit events (each file opened, folder made, name changed or
removed in a checkpoint) are the moments, and the process kills itself with SIGKILL at the n-th. Every second one is
taken, odd ones in the run's first half and even ones in its second, where another checkpoint is written in the same
way. A line of JSON is printed for each: what was about to happen, the step that the run went on from, its last step.
"""

import json
import os
import signal
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod")


def child(run, moment: int, output: Path, arguments: list[str]) -> tuple[int, str]:
    """Fork a run that is killed at its `moment`-th touch of a checkpoint (0: never).

    Returns:
        Its status, and what was about to happen or how many moments there were.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        told = os.fdopen(writing, "w")
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        touched = 0

        def watch(event: str, values: tuple) -> None:
            nonlocal touched
            if event not in EVENTS or not isinstance(values[0], str | os.PathLike):
                return
            path = os.fspath(values[0])
            if not path.startswith(str(output)) or not ("staging" in path or "checkpoint-" in path):
                return
            touched += 1
            if touched == moment:
                told.write(f"{event} {os.path.relpath(path, output)}")
                told.flush()
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        run(output, arguments)
        told.write(str(touched))
        told.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        told = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), told


def main() -> None:
    import tqdm

    tqdm.tqdm.monitor_interval = 0  # no thread that a fork would lose

    from acestep.options import parse_options
    from acestep.train.checkpoints import load_checkpoint
    from acestep.train.options import TrainOptions
    from acestep.train.run import train

    def run(output: Path, arguments: list[str]) -> dict:
        return train(parse_options(TrainOptions, "", [*arguments, "--output_dir", str(output)]))

    root, *arguments = sys.argv[1:]
    status, count = child(run, 0, Path(root) / "counted", arguments)
    assert status == 0, status
    half = int(count) // 2
    for moment in [*range(1, half, 2), *range(half + half % 2, int(count) + 1, 2)]:
        output = Path(root) / str(moment)
        status, told = child(run, moment, output, arguments)
        assert status == -signal.SIGKILL, (moment, status)
        saved = load_checkpoint("latest", output, say=lambda _text: None)
        status, _ = child(run, 0, output, [*arguments, "--resume_from_checkpoint", "latest"])
        assert status == 0, (moment, told, status)
        begun = saved.state["progress"]["step"] if saved else 0
        left = sorted(path.name for path in output.glob(".staging*"))
        print(json.dumps({"moment": moment, "event": told, "from": begun, "left": left}), flush=True)


if __name__ == "__main__":
    main()
