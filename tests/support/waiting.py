"""Waiting for what no event tells of."""

import time
from collections.abc import Callable


def eventually(check: Callable[[], bool], what: str = "", seconds: float = 30, pause: float = 0.05) -> None:
    """Look until it is so; fails with ``what`` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(pause)
