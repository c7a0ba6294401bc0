"""Whiteouts: how a layer says that something below it is gone.

An entry ``dir/.wh.name`` deletes ``dir/name`` of the layers below; ``dir/.wh..wh..opq`` hides all that they hold in
``dir``. Both concern lower layers only, wherever in the layer they stand (hostile-input.md T10). Other names that begin
with ``.wh..wh.`` are AUFS' own files and are ignored. Source: OCI image-spec, layer.md, "Whiteouts".
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from lading.formats.tar.entry import Entry, EntryType, TarError

PREFIX: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
_RESERVED: Final = ".wh..wh."


class Kind(Enum):
    """What a name that has the prefix asks for."""

    WHITEOUT = "whiteout"
    OPAQUE = "opaque"
    RESERVED = "reserved"
    """Nothing: skip the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whiteout:
    """The meaning of a whiteout entry."""

    kind: Kind
    path: str
    """What is deleted, or the directory that becomes opaque (empty for the root); for `Kind.RESERVED` the entry itself."""


class WhiteoutError(TarError):
    """A name that has the whiteout prefix and no meaning."""

    code = "invalid-whiteout"


def classify(path: str) -> Whiteout | None:
    """What the entry at ``path`` means; ``None`` if it is no whiteout. Costs next to nothing for usual names.

    Args:
        path: A clean relative path, as `lading.formats.tar.names.rooted` makes it.

    Raises:
        WhiteoutError: ``.wh.``, ``.wh..`` and ``.wh...`` would delete a directory itself or its parent, and
            ``.wh.a/b`` lies inside a whiteout (hostile-input.md T9).

    """
    if PREFIX not in path:
        return None
    parent, _, base = path.rpartition("/")
    for part in parent.split("/"):
        if part.startswith(_RESERVED):
            return Whiteout(kind=Kind.RESERVED, path=path)
        if part.startswith(PREFIX):
            raise WhiteoutError(f"tar entry {path!r} lies inside a whiteout", subject=path)
    if not base.startswith(PREFIX):
        return None
    if base == OPAQUE:
        return Whiteout(kind=Kind.OPAQUE, path=parent)
    if base.startswith(_RESERVED):
        return Whiteout(kind=Kind.RESERVED, path=path)
    name = base[len(PREFIX) :]
    if name in ("", ".", ".."):
        raise WhiteoutError(f"whiteout {path!r} names no file", subject=path)
    return Whiteout(kind=Kind.WHITEOUT, path=f"{parent}/{name}" if parent else name)


def whiteout(path: str, *, mtime: int = 0) -> Entry:
    """The entry that deletes ``path`` (clean, relative, not the root). ``mtime`` in nanoseconds.

    Raises:
        WhiteoutError: The path cannot be deleted by a whiteout: its own name has the prefix, or it is the root.

    """
    parent, _, base = path.rpartition("/")
    name = f"{parent}/{PREFIX}{base}" if parent else PREFIX + base
    if classify(name) != Whiteout(kind=Kind.WHITEOUT, path=path):
        raise WhiteoutError(f"the deletion of {path!r} cannot be expressed in a layer", subject=path)
    return Entry(name=name, type=EntryType.FILE, mode=0, mtime=mtime)


def opaque(directory: str, *, mtime: int = 0) -> Entry:
    """The entry that hides what lower layers hold in ``directory`` (clean, relative; empty for the root)."""
    return Entry(
        name=f"{directory}/{OPAQUE}" if directory else OPAQUE, type=EntryType.FILE, mode=0, mtime=mtime
    )
