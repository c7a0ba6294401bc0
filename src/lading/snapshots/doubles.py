"""Pages that are cached twice: in a layer's file, and in the EROFS above it. The former go when reading has stopped.

A file-backed EROFS reads its devices through the page cache, so that all that a container reads stands there twice. Mounting with
``directio`` would avoid it, but a cold read of many small files then takes twice as long: the file's own read-ahead, which brings
the neighbours of a small file, is what makes it fast. So it is left to help where something reads, and what it brought is
dropped once nothing more comes. That is told piece by piece: who reads a large layer for hours has only the last seconds of it
twice. Whoever reads the same again reads it from EROFS.

What was just written is left alone for a while: the first container after a pull shall not read from the disk.
"""

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lading.kit import linux

QUIET: Final = 4.0
"""Seconds between two looks at a layer that is being read; as much of a piece cached both times: nobody reads there now."""
PIECE: Final = 16 << 20
"""Bytes of a file that are looked at together; many times what read-ahead brings at once."""
SLOWEST: Final = 64.0
"""Seconds between looks at a layer that nobody reads."""
IDLE: Final = 16.0
"""Most seconds that a new layer waits for its first look."""
FRESH: Final = 60.0
"""Seconds that what was written stays, whoever reads it."""
_FEW: Final = 64
"""Pages that are not worth a call."""


@dataclass(slots=True, kw_only=True)
class _Watched:
    files: Sequence[Path]
    due: float
    wait: float = QUIET
    seen: dict[tuple[Path, int], int] = field(default_factory=dict[tuple[Path, int], int])
    """Cached pages of pieces, by file and offset, as the last look found them."""

    def forget(self, file: Path) -> None:
        """Nothing of a file is worth dropping."""
        for piece in [piece for piece in self.seen if piece[0] == file]:
            del self.seen[piece]


class Doubles:
    """The files of mounted layers. Any thread may tell of them; one at a time drops."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watched: dict[int, _Watched] = {}

    def __contains__(self, id: int) -> bool:
        return id in self._watched

    def watch(self, id: int, files: Iterable[Path]) -> None:
        """A layer is mounted, or used once more."""
        self._watched[id] = _Watched(files=list(files), due=self._clock() + QUIET)

    def keep(self, ids: Iterable[int]) -> None:
        """Forget all layers but these."""
        for gone in set(self._watched) - set(ids):
            self._watched.pop(gone, None)

    def wait(self) -> float:
        """Seconds until it is worth while to `drop`."""
        due = min((watched.due for watched in list(self._watched.values())), default=float("inf"))
        return min(max(due - self._clock(), 0.0), IDLE)

    def drop(self) -> int:
        """Look at the layers that are due; how many bytes were dropped.

        Raises:
            OSError: The kernel cannot tell what it has cached, which is before Linux 6.5.

        """
        now = self._clock()
        dropped = 0
        for watched in list(self._watched.values()):
            if watched.due > now:
                continue
            dropped += sum([_look(file, watched) for file in watched.files]) * linux.PAGE
            watched.wait = QUIET if watched.seen else min(watched.wait * 2, SLOWEST)
            watched.due = now + watched.wait
        return dropped


def _look(file: Path, watched: _Watched) -> int:
    """Drop the pages of pieces that have as many as before; how many were dropped."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENOTCONN):
            raise
        watched.forget(file)  # it was evicted meanwhile, or nobody serves it any more
        return 0
    try:
        if linux.cached_pages(fd) <= _FEW:
            watched.forget(file)
            return 0
        state = os.fstat(fd)
        fresh = time.time() - state.st_mtime < FRESH
        return sum([_settle(fd, (file, at), watched, fresh=fresh) for at in range(0, state.st_size, PIECE)])
    finally:
        os.close(fd)


def _settle(fd: int, piece: tuple[Path, int], watched: _Watched, *, fresh: bool) -> int:
    """Drop the pages of a piece if there are as many as before; how many were dropped."""
    offset = piece[1]
    pages = linux.cached_pages(fd, offset, PIECE)
    before = watched.seen.pop(piece, None)
    if not pages:
        return 0
    if fresh or pages != before:
        watched.seen[piece] = pages
        return 0
    os.posix_fadvise(fd, offset, PIECE, os.POSIX_FADV_DONTNEED)
    return pages - linux.cached_pages(fd, offset, PIECE)
