"""A layer on its way from a tar stream into a snapshot's directory."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from typing_extensions import Buffer, override

from lading.core.leases import LeaseID
from lading.core.snapshots import (
    NO_LABELS,
    DiffIDMismatchError,
    Labels,
    LayerWriter,
    SnapshotName,
)
from lading.errors import FailedPreconditionError
from lading.oci.digest import DiffID, new_hasher
from lading.snapshots.extract import Extracted


class LayerExtractor(Protocol):
    """What takes a layer's stream: `lading.snapshots.extract.Extractor` or its like. Blocking."""

    def write(self, data: Buffer) -> None:
        """Take the next bytes."""
        ...

    def finish(self) -> Extracted:
        """The stream is over."""
        ...

    def close(self) -> None:
        """Let go of all descriptors. Idempotent."""
        ...


class PendingLayer(LayerWriter):
    """The writer that a snapshotter hands out.

    Attributes:
        id: Of the directory that it fills.
        published: Whether it is this one that came to be visible; else its directory goes.

    """

    def __init__(
        self,
        id: int,
        name: SnapshotName,
        parent: SnapshotName | None,
        diff_id: DiffID,
        extractor: LayerExtractor,
        lease: LeaseID | None,
        publish: Callable[["PendingLayer", Extracted, Labels], Awaitable[bool]],
    ) -> None:
        self.id = id
        self.name = name
        self.parent = parent
        self.diff_id = diff_id
        self.lease = lease
        self.published = False
        self._publish = publish
        self._extractor = extractor
        self._hasher = new_hasher(diff_id.algorithm)
        self._extracted: Extracted | None = None
        self._found: DiffID | None = None
        self._done = False

    @override
    def write(self, data: Buffer) -> None:
        self._hasher.update(data)
        self._extractor.write(data)

    @override
    def finish(self) -> DiffID:
        if self._found is None:
            self._extracted = self._extractor.finish()
            self._extractor.close()
            self._found = DiffID.from_hasher(self._hasher, self.diff_id.algorithm)
        return self._found

    @override
    async def commit(self, *, labels: Labels = NO_LABELS) -> None:
        if self._extracted is None:
            raise FailedPreconditionError(f"layer {self.name} is not finished", subject=self.name)
        if self._found != self.diff_id:
            raise DiffIDMismatchError(
                f"layer {self.name} unpacks to {self._found}, not to the promised {self.diff_id}",
                hint="the image is damaged or its config lies about it",
                subject=self.diff_id,
            )
        if not self._done:
            self.published = await self._publish(self, self._extracted, labels)
            self._done = True
