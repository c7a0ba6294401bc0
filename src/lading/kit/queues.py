"""A queue between two threads that is bounded in bytes."""

import threading
from collections import deque
from typing import Final

from typing_extensions import Buffer

from lading.kit.tasks import StoppedError

QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Most bytes between two threads, unless said otherwise."""


class ChunkQueue:
    """Chunks from one thread to another; whoever is too fast waits."""

    def __init__(self, limit: int = QUEUE_BYTES) -> None:
        self._limit = limit
        self._chunks: deque[Buffer] = deque()
        self._bytes = 0
        self._closed = False
        self._aborted = False
        self._condition = threading.Condition()

    def put(self, chunk: Buffer, size: int) -> None:
        """Add ``size`` bytes; blocks while the queue is full. Raises `StoppedError` after `abort`."""
        with self._condition:
            while self._bytes and self._bytes + size > self._limit and not self._aborted:
                self._condition.wait()
            if self._aborted:
                raise StoppedError
            self._chunks.append(chunk)
            self._bytes += size
            self._condition.notify_all()

    def get(self) -> Buffer | None:
        """The next chunk; ``None`` after the last one. Raises `StoppedError` after `abort`."""
        with self._condition:
            while not self._chunks and not self._closed and not self._aborted:
                self._condition.wait()
            if self._aborted:
                raise StoppedError
            if not self._chunks:
                return None
            chunk = self._chunks.popleft()
            self._bytes -= memoryview(chunk).nbytes
            self._condition.notify_all()
            return chunk

    def close(self) -> None:
        """No more chunks will come."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def abort(self) -> None:
        """Drop everything and stop both ends; idempotent."""
        with self._condition:
            self._aborted = True
            self._chunks.clear()
            self._condition.notify_all()
