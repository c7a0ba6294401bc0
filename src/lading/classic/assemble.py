"""A layer's tar stream, made again from its tree and what tar-split noted of it. All of it blocks."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastcrc import crc64

from lading.errors import DataLossError, LadingError
from lading.formats import compression, tarsplit
from lading.kit import linux

CHUNK: Final = 1 << 20
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_RESOLVE: Final = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS


def stream(tree: Path, split: Path) -> Iterator[bytes]:
    """The tar stream of the layer in ``tree``, in pieces. Whoever takes it hashes it: the whole is right if the diff ID is.

    Raises:
        DataLossError: A file of the tree or the notes are missing, damaged or changed.

    """
    root = -1
    try:
        root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for piece in _pieces(split):
            if isinstance(piece, tarsplit.Segment):
                yield piece.data
            elif piece.size:
                yield from _content(root, piece)
    except OSError as exc:
        raise DataLossError(f"cannot read the layer in {tree.parent}: {exc.strerror}") from exc
    finally:
        if root >= 0:
            os.close(root)


def _pieces(split: Path) -> Iterator[tarsplit.Piece]:
    reader = tarsplit.LineReader()
    inflater = compression.decompressor(compression.Compression.GZIP)
    try:
        with split.open("rb") as file:
            while data := file.read(CHUNK):
                for chunk in inflater.feed(data):
                    yield from reader.feed(chunk)
            for chunk in inflater.finish():
                yield from reader.feed(chunk)
        yield from reader.finish()
    except LadingError as exc:
        raise DataLossError(f"{split} is damaged: {exc.message}", subject=str(split)) from exc


def _content(root: int, piece: tarsplit.File) -> Iterator[bytes]:
    try:
        fd = linux.openat2(root, piece.name.lstrip("/") or ".", _FLAGS, _RESOLVE)
    except OSError as exc:
        raise DataLossError(
            f"file {piece.name!r} of the layer is gone: {os.strerror(exc.errno or errno.EIO)}",
            subject=piece.name,
        ) from exc
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != piece.size:
            raise DataLossError(f"file {piece.name!r} of the layer has changed", subject=piece.name)
        crc: int | None = None
        left = piece.size
        while left:
            data = os.read(fd, min(CHUNK, left))
            if not data:
                break
            crc = crc64.go_iso(data) if crc is None else crc64.go_iso(data, crc)
            left -= len(data)
            yield data
        if left or crc != piece.crc:
            raise DataLossError(f"file {piece.name!r} of the layer has changed", subject=piece.name)
    finally:
        os.close(fd)
