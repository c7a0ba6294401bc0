"""What `lading daemon` does before it imports the rest, so that it is ready sooner (docs/benchmarks.md has the figures)."""

import contextlib
import gc
import os
import sys
from collections.abc import Generator
from typing import Final

from lading.daemon import generated

_TRUST: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_CONSOLES: Final = ("rich", "better_exceptions", "colorama")
_THRESHOLDS: Final = (50_000, 20, 100)


@contextlib.contextmanager
def light_imports(part: str) -> Generator[None]:
    """Import a part of the daemon within, without work that it has no use for. For a process that is not yet serving.

    * structlog would load rich, for a console that a daemon has not, and look for others of its kind.
    * aiohttp's client would read the machine's certificates twice on import. We use its server only; the registry client
      makes contexts of its own, later.
    * What dataclasses generate is compiled once (`daemon.generated`).
    * Nearly all that imports allocate lives for ever, so that looking for garbage among it is in vain.
    """
    known = {name: os.environ.get(name) for name in _TRUST}
    blocked = [name for name in _CONSOLES if name not in sys.modules]
    gc.disable()
    os.environ.update(dict.fromkeys(_TRUST, os.devnull))
    for name in blocked:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType] # how the language says: not importable
    try:
        with generated.kept(generated.place(part)):
            yield
    finally:
        for name, value in known.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        for name in blocked:
            del sys.modules[name]
        gc.enable()


def settle() -> None:
    """What is there now stays: keep the collector from walking it, which would hold up the event loop."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
