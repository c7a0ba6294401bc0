"""Named places where a test can end or fault the process: ``LADING_FAILPOINT=name:kill[,name:enospc]``.

Without the variable a failpoint is a call of an empty function.
"""

import errno
import os
import signal
from collections.abc import Callable
from typing import Final

VARIABLE: Final = "LADING_FAILPOINT"
"""``name:action`` pairs; actions are ``kill``, ``eio`` and ``enospc``."""
_ERRORS: Final = {"eio": errno.EIO, "enospc": errno.ENOSPC}


def _parse(text: str) -> dict[str, str]:
    pairs = (part.partition(":") for part in text.split(",") if part)
    return {name: action or "kill" for name, _, action in pairs}


def _armed(points: dict[str, str]) -> Callable[[str], None]:
    def reached(name: str) -> None:
        action = points.get(name)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action in _ERRORS:
            code = _ERRORS[action]
            raise OSError(code, f"{os.strerror(code)} (failpoint {name})")

    return reached


def _unarmed(name: str, /) -> None:
    """Nothing to do."""


failpoint: Final[Callable[[str], None]] = (
    _armed(_parse(os.environ[VARIABLE])) if VARIABLE in os.environ else _unarmed
)
"""Declare a place by name."""
