"""Hashing what a file holds, on a worker thread, so that cancelling the caller ends it soon."""

import os
from typing import Final, Protocol

import anyio
import anyio.from_thread
from typing_extensions import Buffer

_WINDOW: Final = 1 << 20


class Hasher(Protocol):
    """What takes bytes."""

    def update(self, data: Buffer, /) -> None:
        """Add bytes."""
        ...


def hash_file(fd: int, hasher: Hasher, *, length: int | None = None) -> int:
    """Feed ``hasher`` the first ``length`` bytes of a file, or all; the number of bytes.

    Ends early with the cancellation of the task that waits for this thread, if there is one.
    """
    window = memoryview(bytearray(_WINDOW))
    offset = 0
    while length is None or offset < length:
        wanted = _WINDOW if length is None else min(_WINDOW, length - offset)
        got = os.preadv(fd, [window[:wanted]], offset)
        if got == 0:
            break
        hasher.update(window[:got])
        offset += got
        try:
            anyio.from_thread.check_cancelled()
        except RuntimeError:  # not a worker thread
            continue
    return offset
