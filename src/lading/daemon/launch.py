"""What `lading daemon` does before it imports the rest, so that it is ready sooner (docs/benchmarks.md has the figures)."""

import contextlib
import gc
import os
import sys
from collections.abc import Generator
from typing import Final

_TRUST: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_THRESHOLDS: Final = (50_000, 20, 100)


@contextlib.contextmanager
def light_imports() -> Generator[None]:
    """Import within, without work that the daemon has no use for. For a process that serves, and is not yet doing so.

    * structlog would load rich, for a console that a daemon has not.
    * aiohttp's client would read the machine's certificates twice on import. We use its server only; the registry client
      makes contexts of its own, later.
    * Nearly all that imports allocate lives for ever, so that looking for garbage among it is in vain.
    """
    known = {name: os.environ.get(name) for name in _TRUST}
    blocked = "rich" not in sys.modules
    gc.disable()
    os.environ.update(dict.fromkeys(_TRUST, os.devnull))
    if blocked:
        sys.modules["rich"] = None  # pyright: ignore[reportArgumentType] # how the language says: not importable
    try:
        yield
    finally:
        for name, value in known.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if blocked:
            del sys.modules["rich"]
        gc.enable()


def settle() -> None:
    """What is there now stays: keep the collector from walking it, which would hold up the event loop."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
