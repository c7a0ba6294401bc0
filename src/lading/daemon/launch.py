"""What `lading daemon` does before it imports the rest, so that it is ready sooner (docs/benchmarks.md has the figures)."""

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Generator
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any, Final

from lading.daemon import generated

_TRUST: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_CONSOLES: Final = ("rich", "better_exceptions", "colorama")
_SERVER: Final = "aiohttp"
_late: Final = threading.Lock()
_THRESHOLDS: Final = (5_000, 5, 4_000)
"""Some 2 ms for a collection of the youngest, 10 of what outlived one. Ten times as many objects held everybody up for 40 ms."""


@contextlib.contextmanager
def light_imports(part: str) -> Generator[None]:
    """Import a part of the daemon within, without work that it has no use for. For a process that is not yet serving.

    * structlog would load rich, for a console that a daemon has not, and look for others of its kind.
    * aiohttp would import its client, which takes as long as its server, and would read the machine's certificates. We
      use its server only (`lading.api.engine.web`); the registry client makes contexts of its own, later.
    * What dataclasses generate is compiled once (`daemon.generated`).
    * Nearly all that imports allocate lives for ever, so that looking for garbage among it is in vain.
    """
    known = {name: os.environ.get(name) for name in _TRUST}
    blocked = [name for name in _CONSOLES if name not in sys.modules]
    gc.disable()
    os.environ.update(dict.fromkeys(_TRUST, os.devnull))
    _defer(_SERVER)
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


@contextlib.contextmanager
def late_imports(part: str) -> Generator[None]:
    """Import a part of the daemon within, on a thread of one that may be serving; what it brings stays, as by `settle`."""
    with _late:
        gc.disable()
        try:
            with generated.kept(generated.place(part)):
                yield
        finally:
            gc.enable()
        settle()


class _Deferred(ModuleType):
    """A package that can be asked for its submodules; its own code runs when somebody asks it for anything else."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        if name.startswith("__") or PathFinder.find_spec(f"{spec.name}.{name}", self.__path__):
            raise AttributeError(f"{spec.name} has no attribute {name!r} yet")
        object.__setattr__(self, "__class__", ModuleType)
        spec.loader.exec_module(self)
        return getattr(self, name)


def _defer(package: str) -> None:
    """Let a package run its own code later, unless it has."""
    spec = PathFinder.find_spec(package)
    if spec is not None and package not in sys.modules:
        module = sys.modules[package] = module_from_spec(spec)
        module.__class__ = _Deferred
        vars(module)["__version__"] = ""  # what its submodules want to know of it


def settle() -> None:
    """What is there now stays: keep the collector from walking it, which would hold up the event loop."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
