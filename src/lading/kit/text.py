"""Text of clients: it may hold bytes which are no UTF-8, as Python keeps them (lone surrogates), or Go's words for a truth."""

from collections.abc import Iterable
from typing import Final

_TRUTHS: Final = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


def truth(values: Iterable[str]) -> bool | None:
    """What values of a filter say that is true or false, as Go reads them; ``None`` without any.

    Raises `ValueError` if they contradict each other or one is neither.
    """
    found = {_TRUTHS.get(value.lower()) for value in values}
    if len(found) > 1 or None in found:
        raise ValueError("neither true nor false")
    return found.pop() if found else None


def printable(text: str) -> str:
    """Text that a message or a document can hold: bytes that are no text become the replacement character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
