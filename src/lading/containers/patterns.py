"""Regular expressions from clients that cannot take for ever (hostile-input.md A7).

Docker's are Go's, which are linear in the text; Python's are not. What could backtrack without bound is refused: repeated groups,
repeats of repeats, and more than two open repeats.
"""

import re
from collections.abc import Sequence
from typing import Final

from lading.errors import InvalidArgumentError

_LENGTH: Final = 256
_OPEN_REPEATS: Final = 2
_REPEATED: Final = re.compile(r"[)*+}?]\s*[*+{]")
_OPEN: Final = re.compile(r"(?<!\\)(?:[*+]|\{\d*,\})")


def check(text: str, what: str) -> None:
    """Raise `InvalidArgumentError`, which begins with ``what``, if matching the expression could take for ever."""
    if len(text) > _LENGTH or _REPEATED.search(text) or len(_OPEN.findall(text)) > _OPEN_REPEATS:
        raise InvalidArgumentError(f"{what}: the expression {text[:80]!r} is too complicated")


def compiled(text: str, what: str) -> re.Pattern[str]:
    """The expression. Raises `InvalidArgumentError`, which begins with ``what``."""
    check(text, what)
    try:
        return re.compile(text)
    except (re.error, OverflowError) as exc:
        raise InvalidArgumentError(f"{what}: {exc}") from exc


def finds(values: Sequence[str], *texts: str) -> bool:
    """Docker's rule for names and IDs in filters: a value that passed `check` is one of the texts, or fits a part of one.

    A value that is no expression finds nothing else than itself.
    """
    return any(value in texts or _fits(value, texts) for value in values)


def _fits(value: str, texts: Sequence[str]) -> bool:
    try:
        expression = re.compile(value)
    except (re.error, OverflowError):
        return False
    return any(expression.search(text) for text in texts)
