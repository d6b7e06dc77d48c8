"""Values, names and numbers, made fit for a message: short, on one line, and without terminal control."""


def show(raw: object) -> str:
    """Return a short quotation of a value."""
    text = f'"{raw}"' if isinstance(raw, str) else "true" if raw is True else "false" if raw is False else repr(raw)
    text = printable(text)
    return text if len(text) <= 60 else text[:57] + "..."


def printable(text: str) -> str:
    """Return text that can be printed on a terminal and stored as UTF-8."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 song`, `2 songs`; `plural` where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
