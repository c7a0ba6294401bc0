"""Named places where a test can end or fault the process: ``LADING_FAILPOINT=name:kill[,name:enospc@3]``.

``@3`` means the third time. Without the variable a failpoint is a call of an empty function.
"""

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Final

VARIABLE: Final = "LADING_FAILPOINT"
"""``name:action`` pairs; actions are ``kill``, ``eio`` and ``enospc``."""
_ERRORS: Final = {"eio": errno.EIO, "enospc": errno.ENOSPC}


def _parse(text: str) -> dict[str, tuple[str, int]]:
    points: dict[str, tuple[str, int]] = {}
    for part in text.split(","):
        name, _, rest = part.partition(":")
        action, _, count = rest.partition("@")
        points[name] = (action or "kill", int(count or "1"))
    return points


def _armed(points: dict[str, tuple[str, int]]) -> Callable[[str], None]:
    hits: Counter[str] = Counter()

    def reached(name: str) -> None:
        action, count = points.get(name, ("", 0))
        hits[name] += 1
        if hits[name] != count:
            return
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        code = _ERRORS[action]
        raise OSError(code, f"{os.strerror(code)} (failpoint {name})")

    return reached


def _unarmed(name: str, /) -> None:
    """Nothing to do."""


failpoint: Final[Callable[[str], None]] = (
    _armed(_parse(os.environ[VARIABLE])) if VARIABLE in os.environ else _unarmed
)
"""Declare a place by name."""
