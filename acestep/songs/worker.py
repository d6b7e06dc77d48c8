"""The process behind `acestep.songs.workers`: reads pickled calls from standard input, answers on standard output."""

import os
import pickle
import sys


def main() -> None:
    """Answer calls until standard input ends, which it does when the parent is gone."""
    calls = sys.stdin.buffer
    # Anything a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            function, arguments = pickle.load(calls)
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = (True, function(*arguments))
        except Exception as error:
            answer = (False, _portable(error))
        try:
            pickle.dump(answer, answers, protocol=5)
            answers.flush()
        except BrokenPipeError:
            return


def _portable(error: Exception) -> Exception:
    """Return an exception that survives pickling, or its text in one that does."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    main()
