"""A blob that may still be arriving, followed by whoever unpacks it.

The download appends to its ingest and tells how far it is; a follower reads the same bytes back out of the ingest, from
offset 0, whether they came a moment ago or before the daemon was killed. The page cache is the queue: a slow unpack never
holds up the network, and nothing is held in memory twice. Threads follow; only `Arriving.settled` belongs to the loop.
"""

import threading
from collections.abc import Callable

import anyio

from lading.errors import DataLossError
from lading.kit.tasks import StoppedError
from lading.oci.descriptor import Descriptor

PRead = Callable[[int, int], bytes]
"""``pread(length, offset)`` of a `lading.core.content.Reader` or ``Writer``."""


class Arriving:
    """One blob on its way into the content store. Made on the event loop; `advance` and cursors belong to threads."""

    def __init__(self, descriptor: Descriptor, *, resumed: bool = False) -> None:
        self.descriptor = descriptor
        self.resumed = resumed
        """Whether a prefix was left by an earlier download. A power cut may have spoilt it."""
        self.discarded = False
        """Whether the bytes proved wrong and are fetched again, as another `Arriving`."""
        self.settled = anyio.Event()
        """Set when the blob is committed, so that its size and digest are what the descriptor says, or discarded."""
        self.condition = threading.Condition()
        self._available = 0
        self._ingest: PRead | None = None
        self._ingest_readers = 0

    def attach(self, read: PRead, available: int) -> None:
        """Serve followers from the ingest behind ``read``, which has ``available`` bytes."""
        with self.condition:
            self._ingest = read
            self._available = available
            self.condition.notify_all()

    def advance(self, available: int) -> None:
        """Tell followers that the ingest has ``available`` bytes."""
        with self.condition:
            self._available = available
            self.condition.notify_all()

    def detach(self) -> None:
        """Stop using the ingest; when this returns, no follower is inside it. Blocking, for one read at most."""
        with self.condition:
            self._ingest = None
            self.condition.wait_for(lambda: self._ingest_readers == 0)

    def discard(self) -> None:
        """The bytes were wrong: followers get a `DataLossError`. Called on the event loop, after `detach`."""
        with self.condition:
            self.discarded = True
            self.condition.notify_all()
        self.settled.set()

    def follow(self) -> "Cursor":
        """A new reader that starts at offset 0."""
        return Cursor(self)

    def take(self, offset: int) -> tuple[PRead, int] | None:
        """How to read the ingest at ``offset`` and how many bytes it has from there, if any. `condition` is held."""
        if self._ingest is None or self._available <= offset:
            return None
        self._ingest_readers += 1
        return self._ingest, self._available - offset

    def give_back(self) -> None:
        """The counterpart of a `take` that returned something. `condition` is held."""
        self._ingest_readers -= 1
        self.condition.notify_all()


class Cursor:
    """A position in an arriving blob. One thread reads; others may attach, detach and close."""

    def __init__(self, blob: Arriving) -> None:
        self.offset = 0
        self._blob = blob
        self.size = blob.descriptor.size
        self._condition = blob.condition
        self._stored: PRead | None = None
        self._reading = False
        self._closed = False

    def attach(self, read: PRead) -> None:
        """From now on read the stored blob instead of its ingest."""
        with self._condition:
            self._stored = read
            self._condition.notify_all()

    def detach(self) -> None:
        """Undo `attach`; when this returns, the thread is not inside it. Blocking, for one read at most."""
        with self._condition:
            self._stored = None
            self._condition.wait_for(lambda: not self._reading)

    def close(self) -> None:
        """End the reader, which gets a `StoppedError`; idempotent."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def read(self, length: int) -> bytes:
        """At most ``length`` bytes, as soon as there are any; empty at the end of the blob. Blocking.

        Raises:
            StoppedError: The cursor was closed.
            DataLossError: The store gave back fewer bytes than it holds.

        """
        if self.offset >= self.size:
            return b""
        read, available, stored = self._begin()
        try:
            data = read(min(length, available), self.offset)
        finally:
            with self._condition:
                if stored:
                    self._reading = False
                    self._condition.notify_all()
                else:
                    self._blob.give_back()
        if not data:
            digest = self._blob.descriptor.digest
            raise DataLossError(f"blob {digest} ends at byte {self.offset} while it is read", subject=digest)
        self.offset += len(data)
        return data

    def _begin(self) -> tuple[PRead, int, bool]:
        with self._condition:
            while True:
                if self._closed:
                    raise StoppedError
                if self._blob.discarded:
                    digest = self._blob.descriptor.digest
                    raise DataLossError(f"what was kept of blob {digest} was damaged", subject=digest)
                if self._stored is not None:
                    self._reading = True
                    return self._stored, self.size - self.offset, True
                found = self._blob.take(self.offset)
                if found is not None:
                    return *found, False
                self._condition.wait()
