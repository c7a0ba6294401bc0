"""Lading: the containerd image store, in Python.

Open a store with `lading.open_store`; run the daemon with ``lading daemon``. ARCHITECTURE.md is the map.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lading.library import open_store

__all__ = ["__version__", "open_store"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # The library loads every room; `lading --help` imports this package and must not.
    if name == "open_store":
        from lading.library import open_store  # noqa: PLC0415

        return open_store
    raise AttributeError(f"module 'lading' has no attribute {name!r}")
