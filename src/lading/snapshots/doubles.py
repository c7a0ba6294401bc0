"""Pages that are cached twice: in a layer's file, and in the EROFS above it. The former go when reading has stopped.

A file-backed EROFS reads its devices through the page cache, so that all that a container reads stands there twice. Mounting with
``directio`` would avoid it, but a cold read of many small files then takes twice as long: the file's own read-ahead, which brings
the neighbours of a small file, is what makes it fast. So it is left to help where something reads, and what it brought is
dropped once nothing more comes. That is told piece by piece: who reads a large layer for hours has only the last seconds of it
twice. Whoever reads the same again reads it from EROFS.

What was just written is left alone for a while: the first container after a pull shall not read from the disk. But what it has
read is there twice at once, and need not be: of a new layer it is known where in its tree some of its bytes are shown, one of
each mebibyte. Where EROFS has cached all of a piece's, the piece was read, and goes at the next look. (Of other layers nothing
can tell: who opens files to find out brings their inodes into memory.)
"""

import bisect
import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from lading.kit import linux
from lading.snapshots.erofs_layer import Sample

QUIET: Final = 4.0
"""Seconds between two looks at a layer that is being read; as much of a piece cached both times: nobody reads there now."""
PIECE: Final = 16 << 20
"""Bytes of a file that are looked at together; many times what read-ahead brings at once."""
SLOWEST: Final = 64.0
"""Seconds between looks at a layer that nobody reads."""
IDLE: Final = 16.0
"""Most seconds that a new layer waits for its first look."""
FRESH: Final = 60.0
"""Seconds that what was written stays unless it was read."""
_FEW: Final = 64
"""Pages that are not worth a call."""


_RESOLVE: Final = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_XDEV


@dataclass(slots=True, kw_only=True)
class _Watched:
    files: Sequence[Path]
    point: Path | None
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
        self._written: dict[int, tuple[float, Sequence[Sample]]] = {}

    def __contains__(self, id: int) -> bool:
        return id in self._watched

    def written(self, id: int, samples: Sequence[Sample]) -> None:
        """A layer is new; where the bytes of its first file are shown."""
        self._forget_old()  # nobody may ever look
        self._written[id] = self._clock() + FRESH, samples

    def watch(self, id: int, files: Iterable[Path], point: Path | None = None) -> None:
        """A layer is mounted at ``point``, or used once more."""
        self._watched[id] = _Watched(files=list(files), point=point, due=self._clock() + QUIET)

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
        self._forget_old()
        dropped = 0
        for id_, watched in list(self._watched.items()):
            if watched.due > now:
                continue
            _, samples = self._written.get(id_, (0, ()))
            with _Shown(watched.point if samples else None) as shown:
                for number, file in enumerate(watched.files):
                    dropped += _look(file, watched, shown, () if number else samples) * linux.PAGE
            watched.wait = QUIET if watched.seen else min(watched.wait * 2, SLOWEST)
            watched.due = now + watched.wait
        return dropped

    def _forget_old(self) -> None:
        now = self._clock()
        for id_ in [id_ for id_, (end, _) in list(self._written.items()) if end <= now]:
            self._written.pop(id_, None)


class _Shown:
    """A mounted layer, and what EROFS has cached of it."""

    def __init__(self, point: Path | None) -> None:
        self._fd = -1
        if point is not None:
            with contextlib.suppress(FileNotFoundError):
                self._fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def has_all(self, samples: Iterable[Sample]) -> bool:
        """Whether there are some and all of them are cached."""
        found = False
        for sample in samples:
            try:
                fd = linux.openat2(self._fd, sample.name.strip("/"), os.O_RDONLY | os.O_NONBLOCK, _RESOLVE)
            except OSError:
                continue  # another entry has taken its place, or it cannot be opened here
            try:
                if not linux.cached_pages(fd, sample.offset, 1):
                    return False
            finally:
                os.close(fd)
            found = True
        return found


def _look(file: Path, watched: _Watched, shown: _Shown, samples: Sequence[Sample]) -> int:
    """Drop the pages of pieces that were read and are not any more; how many were dropped."""
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
        dropped = 0
        for at in range(0, state.st_size, PIECE):
            first, end = (bisect.bisect_left(samples, place, key=_place) for place in (at, at + PIECE))
            length = min(PIECE, state.st_size - at)
            dropped += _settle(fd, (file, at), length, watched, shown, samples[first:end], fresh=fresh)
        return dropped
    finally:
        os.close(fd)


def _place(sample: Sample) -> int:
    return sample.at


def _settle(
    fd: int,
    piece: tuple[Path, int],
    length: int,
    watched: _Watched,
    shown: _Shown,
    samples: Sequence[Sample],
    *,
    fresh: bool,
) -> int:
    """Drop the pages of a piece if there are as many as before, or EROFS has them; how many were dropped."""
    offset = piece[1]
    pages = linux.cached_pages(fd, offset, length)
    before = watched.seen.pop(piece, None)
    if not pages:
        return 0
    # Where some are missing, it is not what was written that is there, but what was read since.
    kept = fresh and pages >= -(-length // linux.PAGE)
    if (kept or pages != before) and not (samples and shown.has_all(samples)):
        watched.seen[piece] = pages
        return 0
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
    left = linux.cached_pages(fd, offset, length)
    if left > _FEW:  # not yet on the disk
        watched.seen[piece] = left
    return pages - left
