"""Delivers chunks that arrive out of order, in order. Used by several data threads at once.

Whoever receives the *head* chunk hands its bytes straight to the sink; the others keep theirs until it is their turn. So one
connection costs no copy at all, and several cost at most `OUTSTANDING` chunks of memory.
"""

import threading
from typing import Final

from lading.core.remotes import Sink

OUTSTANDING: Final = 8
"""Chunks that are claimed and not delivered."""


class SinkError(Exception):
    """The sink raised; its error is the cause. Stays in this room."""


class Chunk:
    """A claimed range ``[start, end)`` of a blob; ``received`` bytes of it are here or delivered."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.received = 0
        self.kept = bytearray()
        self.finishing = False
        """Whether a thread has taken it upon itself to deliver what is kept of it, the chunk being complete."""

    @property
    def next(self) -> int:
        """Offset of the first byte that is missing."""
        return self.start + self.received

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.next == self.end


class Window:
    """The part of a blob that is in flight."""

    def __init__(self, sink: Sink, offset: int, size: int) -> None:
        self._sink = sink
        self._size = size
        self._lock = threading.Lock()
        self._chunks: list[Chunk] = []
        self._claimed = offset
        self.position = offset
        """Offset of the first byte that the sink has not got."""

    @property
    def unclaimed(self) -> int:
        """Bytes that nobody has claimed."""
        return self._size - self._claimed

    def claim(self, length: int) -> Chunk | None:
        """Take the next ``length`` bytes upon oneself; None if nothing is left or too much is outstanding."""
        with self._lock:
            if not self.unclaimed or len(self._chunks) >= OUTSTANDING:
                return None
            end = min(self._size, self._claimed + length)
            chunk = Chunk(self._claimed, end)
            self._claimed = end
            self._chunks.append(chunk)
            return chunk

    def extend(self, chunk: Chunk) -> None:
        """Take all the rest upon oneself, if nobody else has claimed any of it: the host sends it anyway."""
        with self._lock:
            if self._chunks[-1] is chunk:
                chunk.end = self._claimed = self._size

    def put(self, chunk: Chunk, view: memoryview) -> None:
        """Add the next bytes of a chunk. Raises `SinkError`."""
        with self._lock:
            if self._chunks[0] is not chunk:
                chunk.kept += view
                chunk.received += len(view)
                return
        # From here on this thread is the only one that delivers, until it finishes the chunk.
        self._flush(chunk)
        self._deliver(view)
        chunk.received += len(view)

    def finish(self, chunk: Chunk) -> None:
        """Say that a complete chunk is complete; delivers what now can be. Raises `SinkError`."""
        assert chunk.complete
        with self._lock:
            # Whoever finished the chunk before this one may have found it complete, and is delivering it already.
            if chunk.finishing or self._chunks[0] is not chunk:
                return
            chunk.finishing = True
        while True:
            self._flush(chunk)
            with self._lock:
                self._chunks.pop(0)
                if not self._chunks or not self._chunks[0].complete:
                    return
                chunk = self._chunks[0]
                chunk.finishing = True

    def _flush(self, chunk: Chunk) -> None:
        if chunk.kept:
            with memoryview(chunk.kept) as view:
                self._deliver(view)
            chunk.kept = bytearray()

    def _deliver(self, view: memoryview) -> None:
        try:
            self._sink(view)
        except Exception as exc:
            raise SinkError from exc
        self.position += len(view)
