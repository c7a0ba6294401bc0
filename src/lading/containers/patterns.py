"""Regular expressions from clients that cannot take for ever (hostile-input.md A7).

Docker's are Go's, which are linear in the text; Python's are not. What could backtrack without bound is refused: repeated groups,
repeats of repeats, and more than two open repeats.
"""

import re
from typing import Final

from lading.errors import InvalidArgumentError

_LENGTH: Final = 256
_OPEN_REPEATS: Final = 2
_REPEATED: Final = re.compile(r"[)*+}?]\s*[*+{]")
_OPEN: Final = re.compile(r"(?<!\\)(?:[*+]|\{\d*,\})")


def compiled(text: str, what: str) -> re.Pattern[str]:
    """The expression. Raises `InvalidArgumentError`, which begins with ``what``."""
    if len(text) > _LENGTH or _REPEATED.search(text) or len(_OPEN.findall(text)) > _OPEN_REPEATS:
        raise InvalidArgumentError(f"{what}: the expression {text[:80]!r} is too complicated")
    try:
        return re.compile(text)
    except (re.error, OverflowError) as exc:
        raise InvalidArgumentError(f"{what}: {exc}") from exc
