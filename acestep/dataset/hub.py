"""Talking to the Hub: what may pass is tried again, what will not is one line that says what to do."""

import time
from collections.abc import Callable
from typing import TypeVar

from acestep.errors import UserError

Result = TypeVar("Result")
_WAITS = (1.0, 4.0)  # seconds before another attempt; huggingface_hub retries single requests by itself
_PASSING = (408, 429, 500, 502, 503, 504)


def check_hub_id(name: str, option: str) -> None:
    """Raise UserError unless `name` has the form user/name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if name.count("/") != 1:
        raise UserError(f"{option}: expected a Hub id of the form user/name.")


def on_hub(action: Callable[[], Result], what: str, advice: str) -> Result:
    """Run what talks to the Hub; a failure that may pass is tried again.

    Args:
        what: how errors begin, such as "--hub_dataset_id user/name".
        advice: how errors that may pass end: what is kept, and how to go on.

    Raises:
        UserError: when the Hub refuses, or does not answer after all.
    """
    for wait in (*_WAITS, None):
        try:
            return action()
        except UserError:
            raise
        except Exception as wrapped:
            error = _root(wrapped)
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 403, 404) or _has_no_token(error):
                raise UserError(f"{what}: {_refusal(status)}") from None
            passing = status in _PASSING or (status is None and _is_connection(error))
            if not passing:
                if status is None:
                    raise
                raise UserError(f"{what}: the Hub refused ({first_line(error)}).") from None
            if wait is None:
                raise UserError(f"{what}: the Hub cannot be reached ({first_line(error)}). {advice}") from None
        time.sleep(wait)
    raise AssertionError("unreachable")


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _root(error: Exception) -> Exception:
    """The answer of the Hub behind what a library made of it."""
    found: BaseException | None = error
    while found is not None:
        if getattr(found, "response", None) is not None or _is_connection(found):
            return found
        found = found.__cause__ or found.__context__
    return error


def _has_no_token(error: Exception) -> bool:
    from huggingface_hub.errors import LocalTokenNotFoundError

    return isinstance(error, LocalTokenNotFoundError)


def _is_connection(error: BaseException) -> bool:
    """A transport error, whichever HTTP client huggingface_hub uses."""
    return isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.startswith("httpx")


def _refusal(status: int | None) -> str:
    if status == 403:
        return "the token may not do this. Take one with write access (`hf auth login`), or a repository of your own."
    if status == 404:
        return "there is no such repository that the Hub shows you. Check the spelling, or run `hf auth login`."
    return "the Hub refused the token, or there is none. Run `hf auth login`, or set HF_TOKEN."
