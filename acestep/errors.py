"""The one exception that means: the user can mend this."""

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something a user can act on: it names the file, row or option, what was found, what was expected, the fix."""


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit: what a user can mend becomes one line on standard error and status 2.

    `main` returns the exit status (None is 0); status 1 means "finished, but not with everything", 130 an interruption.
    Of several processes only the first one speaks.
    """
    try:
        status = main()
    except UserError as error:
        status = _fail(f"error: {error}", 2)
    except KeyboardInterrupt:
        status = _fail("interrupted: what was finished before is kept.", 130)
    except OSError as error:
        if error.filename is None or error.strerror is None:  # not about a file: a fault of the program's own
            raise
        status = _fail(f"error: {error.filename}: {error.strerror}.", 2)
    sys.exit(status or 0)


def _fail(text: str, status: int) -> int:
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)
    return status
