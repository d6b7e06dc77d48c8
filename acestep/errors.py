"""The one exception that means: the user can mend this."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something a user can act on: it names the file, row or option, what was found, what was expected, the fix."""


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit: `UserError` becomes one line on standard error and status 2, no traceback.

    `main` returns the exit status (None is 0); status 1 means "finished, but not with everything".
    """
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status or 0)
