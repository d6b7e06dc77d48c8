"""Worker processes that may crash: a decoder that takes its process along costs one file, not the run.

`concurrent.futures` and `multiprocessing` lose every running task when one worker dies, and start workers by importing
the caller's main script again, which fails in a notebook or under `python -`. Here each thread owns one plain
`python -m acestep.songs.worker` and talks to it through pipes.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Each worker has a core; libraries that start a thread a core would fight over them.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerDied(Exception):
    """The process ended, or was ended, before it answered; the message says how."""


class Worker:
    """One process that runs functions, started when first needed and again after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)

    def run(self, function: Callable, arguments: tuple, timeout: float) -> Any:
        """Return `function(*arguments)` as computed in the process; what it raises is raised here.

        Raises:
            WorkerDied: the process crashed, was killed, or took longer than `timeout` seconds.
        """
        process = self._process or self._start()
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout, give_up)
        timer.daemon = True
        timer.start()
        try:
            pickle.dump((function, arguments), process.stdin, protocol=5)
            process.stdin.flush()
            succeeded, result = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            process.kill()
            status = process.wait()
            self._process = None
            if late.is_set():
                raise WorkerDied(f"no answer within {timeout:g} seconds") from error
            raise WorkerDied(f"the decoder crashed ({_ending(status)}){self._last_words()}") from error
        finally:
            timer.cancel()
        if succeeded:
            return result
        raise result

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None
        self._log.close()

    def _start(self) -> subprocess.Popen:
        package_root = str(Path(__file__).resolve().parents[2])
        paths = [package_root, os.environ.get("PYTHONPATH", "")]
        self._log.seek(0)
        self._log.truncate()
        self._process = subprocess.Popen(
            # -P: the folder one stands in may hold a file called like a module
            [sys.executable, "-P", "-m", "acestep.songs.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,  # decoders chatter there
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        )
        return self._process

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""


def run_in_workers(
    function: Callable, tasks: Iterable[tuple], workers: int, timeout: float, ahead: int | None = None
) -> Iterator[Any]:
    """Yield `function(*task)` for each task, in the tasks' order, computed in `workers` isolated processes.

    What a task raises, `WorkerDied` included, is yielded in place of its result.

    Args:
        function: importable by name, as are its arguments and results (they are pickled).
        timeout: seconds a task may take.
        ahead: how many results may wait to be taken; as many as there are workers by default. It bounds memory.
    """
    ahead = workers if ahead is None else ahead
    idle = deque(Worker() for _ in range(workers))
    all_workers = list(idle)

    def run(task: tuple) -> Any:
        worker = idle.popleft()  # there are as many threads as workers
        try:
            return worker.run(function, task, timeout)
        except Exception as error:
            return error
        finally:
            idle.append(worker)

    pending: deque[Future] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="songs")
    try:
        for task in tasks:
            pending.append(pool.submit(run, task))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Also when the caller stops half-way: what runs is ended, not waited for.
        for future in pending:
            future.cancel()
        for worker in all_workers:
            if worker._process is not None:
                worker._process.kill()
        pool.shutdown(wait=True)
        for worker in all_workers:
            worker.close()


def _ending(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
