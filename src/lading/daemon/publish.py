"""``lading publish``: what a shim runs to report an event when its socket to the daemon fails."""

import os
import sys
from collections.abc import Sequence

from lading.errors import LadingError
from lading.runtime.events import publish_main

_LIMIT = 1024 * 1024


def main(arguments: Sequence[str]) -> int:
    """Forward the event on standard input. Shims put ``--address`` before the word ``publish``; the order is free here."""
    rest = [argument for argument in arguments if argument != "publish"]
    try:
        publish_main(rest, sys.stdin.buffer.read(_LIMIT), os.environ)
    except LadingError as exc:
        sys.stderr.write(f"lading publish: {exc}\n")
        return 1
    return 0
