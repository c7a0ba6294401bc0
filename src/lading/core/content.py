"""Content: immutable blobs, named by their digest.

**Terms.** A *blob* is a sequence of bytes with a `Digest`. An *ingest* is a blob being written; its *ref* is any
non-empty string that the writer chooses, and two writers that name the same ref mean the same work. A *label* is
a key and a value, together at most 4096 bytes; some keys steer the garbage collector (see `lading.core.labels`).

**Life of a blob.** ``open_writer(ref)`` starts an ingest, or takes up the one that an earlier writer left under
that ref, at its `Writer.offset`. Bytes are appended with `Writer.write`. `Writer.commit` verifies size and digest,
makes the bytes durable and then makes the blob visible, in that order; from then on the blob never changes.
Leaving the writer without a commit never publishes anything; it keeps the ingest, so that the work can be resumed,
also by another process after a crash. `Store.abort` discards it. An ingest without a lease expires after 24 hours.

**Bytes that are away.** A store that was given a `Restorer` may `Store.release` the bytes of a blob that it can make again; row,
size and labels stay. `Store.open_reader` first brings them back, as an ingest that is verified like any other. `Store.intact`
tells, and brings nothing back.

**Namespaces.** A store object belongs to one namespace. Bytes are stored once, whoever owns them; visibility and
labels are per namespace.

**Colour.** Port methods are ``async``. `Writer.write`, `Writer.truncate` and everything of `Reader` are *blocking*
and belong on a data thread (`lading.kit.aio`): no byte of a layer passes through the event loop.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType, Protocol

from typing_extensions import Buffer

from lading.core.leases import LeaseID
from lading.errors import DataLossError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

IngestRef = NewType("IngestRef", str)
Labels = Mapping[str, str]
NO_LABELS: Labels = {}
NO_LABELS_OF_MANY: "Mapping[Digest, Labels]" = {}


class DigestMismatchError(DataLossError):
    """Bytes do not have the digest that they were promised under."""

    code = "digest-mismatch"


class SizeMismatchError(DataLossError):
    """There are more or fewer bytes than promised."""

    code = "size-mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What the store knows of a blob. ``size`` is in bytes; times are UTC."""

    digest: Digest
    size: int
    created_at: datetime
    updated_at: datetime
    labels: Labels = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestStatus:
    """A blob being written. ``offset`` bytes are there; ``total`` is 0 if unknown; times are UTC."""

    ref: IngestRef
    offset: int
    total: int
    expected: Digest | None
    started_at: datetime
    updated_at: datetime


class Reader(Protocol):
    """An open blob. Blocking; safe to use from several threads at once. Close it, or leave its context."""

    @property
    def size(self) -> int:
        """Length of the blob in bytes."""
        ...

    def fileno(self) -> int:
        """A file descriptor that stays open as long as the reader, for ``sendfile`` and ``mmap``.

        Raises:
            UnsupportedError: The bytes are not in a local file.

        """
        ...

    def pread(self, length: int, offset: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer only at the end of the blob."""
        ...

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """Fill ``buffer`` from ``offset``; the number of bytes, less than its length only at the end."""
        ...


class Writer(Protocol):
    """The one open writer of an ingest."""

    @property
    def ref(self) -> IngestRef:
        """The ingest's ref."""
        ...

    @property
    def offset(self) -> int:
        """Number of bytes that the ingest holds."""
        ...

    def digest(self, algorithm: str = "sha256") -> Digest:
        """Digest of the bytes so far. Only the algorithm of ``expected`` (else sha256) costs nothing."""
        ...

    def write(self, data: Buffer) -> None:
        """Append all of ``data``. Blocking; ``data`` may be reused when the call returns.

        Raises:
            ResourceExhaustedError: The disk or the quota is full. What was written stays.

        """
        ...

    def pread(self, length: int, offset: int) -> bytes:
        """Bytes that the ingest already holds, as `Reader.pread`. Blocking.

        May be called beside all else, from any thread, and waits for none of it: not for a `write`, and not for `commit`
        to make the bytes durable. It goes on after a successful `commit`, until the writer's context is left.
        """
        ...

    def truncate(self) -> None:
        """Forget all bytes and start at offset 0. Blocking."""
        ...

    async def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: Labels = NO_LABELS,
        durable: bool = True,
    ) -> Info:
        """Verify, make durable, and publish the blob; the writer is then closed.

        Without ``durable`` the bytes are flushed all the same, but a power cut may take the row, until something that is durable
        was written: for whoever acknowledges nothing before that.

        ``size`` and ``expected`` default to those of the descriptor that the writer was opened with; without either,
        whatever was written is committed. If the blob appeared meanwhile, its labels are kept, the given ones
        are added, and the call succeeds. Cancel-safe: afterwards the blob is either committed or still an ingest.

        Raises:
            DigestMismatchError: The bytes are not what was promised. The ingest is discarded.
            SizeMismatchError: Likewise for the length.

        """
        ...


class Restorer(Protocol):
    """Makes the bytes of blobs again that a store let go of."""

    def can(self, info: Info) -> bool:
        """Whether it knows how, by the blob's labels. Cheap."""
        ...

    async def restore(self, info: Info, write: Callable[[Buffer], None]) -> None:
        """Give the bytes of a blob, in order, to ``write``, which blocks and is called on data threads.

        The caller verifies them.

        Raises:
            UnavailableError: What they are made of cannot be had now.
            DataLossError: It is not there any more.

        """
        ...


class Store(Protocol):
    """The blobs and ingests of one namespace."""

    async def info(self, digest: Digest) -> Info:
        """What is known of a blob, without reading it. Raises `NotFoundError`."""
        ...

    async def update(self, digest: Digest, labels: Mapping[str, str | None], *, durable: bool = True) -> Info:
        """Set the given labels, remove those whose value is ``None``, leave the others. Atomic.

        Without ``durable`` a power cut may undo it, until something that is durable was written.

        Raises `NotFoundError`; `InvalidArgumentError` for a label over 4096 bytes.
        """
        ...

    def walk(self) -> AsyncIterator[Info]:
        """All blobs of the namespace, in order of digest, as they were when the walk began."""
        ...

    async def delete(self, digest: Digest) -> None:
        """Take the blob out of the namespace; its bytes go with their last owner. Raises `NotFoundError`."""
        ...

    def open_reader(self, digest: Digest) -> AbstractAsyncContextManager[Reader]:
        """Open a blob; it stays readable while open, also if it is deleted or released meanwhile.

        Bytes that are away are brought back first, which takes as long as it takes to make them.

        Raises:
            NotFoundError: There is no such blob.
            DataLossError: Its bytes are lost.
            UnavailableError: They are away and cannot be brought back now.

        """
        ...

    async def intact(self, digests: Collection[Digest]) -> Mapping[Digest, Info]:
        """`info` for those of the blobs whose bytes are here or can be brought back. Reads none of them."""
        ...

    def restore_by(self, restorer: Restorer) -> None:
        """Who makes released bytes again. Called once, before anything is read."""
        ...

    async def release(self, digest: Digest) -> int:
        """Let go of a blob's bytes, which the `Restorer` can make again; how many were freed.

        None are if they are away already, or if another namespace has the blob.

        Raises:
            NotFoundError: There is no such blob.
            FailedPreconditionError: Nobody can make them again.

        """
        ...

    async def last_used(self, digests: Collection[Digest]) -> Mapping[Digest, float]:
        """Seconds since the epoch at which blobs were last written or opened, for those whose bytes are here."""
        ...

    async def read(self, digest: Digest, *, limit: int) -> bytes:
        """A whole small blob (manifest, config), verified against its digest.

        Raises `NotFoundError`; `ResourceExhaustedError` over ``limit`` bytes; `DataLossError` if it is damaged.
        """
        ...

    async def read_many(self, digests: Collection[Digest], *, limit: int) -> Mapping[Digest, bytes]:
        """`read` for several small blobs; those that are not here are left out."""
        ...

    async def infos(self, digests: Collection[Digest]) -> Mapping[Digest, Info]:
        """`info` for those of the blobs that are here."""
        ...

    async def sizes(self, digests: Collection[Digest]) -> Mapping[str, int]:
        """Length in bytes of those of the blobs that are here."""
        ...

    def open_writer(
        self, ref: IngestRef, *, expected: Descriptor | None = None, lease: LeaseID | None = None
    ) -> AbstractAsyncContextManager[Writer]:
        """Start or resume the ingest ``ref``; waits while another writer of this process has it open.

        ``lease``, if given, holds the ingest and then the blob.

        Raises:
            AlreadyExistsError: ``expected`` is in the namespace already (it joins ``lease``), or is there after
                waiting for another writer.
            UnavailableError: Another process has the ingest open.

        """
        ...

    async def put_many(
        self,
        blobs: Mapping[Digest, bytes],
        *,
        labels: Mapping[Digest, Labels] = NO_LABELS_OF_MANY,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> None:
        """Store small blobs by their digests, durable together: far quicker than one writer for each.

        All are verified before any is written, and published in one transaction, in which they join ``lease``. One that is there
        already is not written again, keeps its labels, and the given ones are added. Cancel-safe: all are published, or none is.
        Without ``durable`` only the bytes are so, and the rows once something was written that is.

        Raises:
            DigestMismatchError: One is not what its digest says.
            ResourceExhaustedError: The disk or the quota is full.

        """
        ...

    async def label(self, labels: Mapping[Digest, Labels], *, lease: LeaseID | None = None) -> None:
        """Add labels to many blobs in one transaction, in which they join ``lease``. Blobs that are not here are passed over."""
        ...

    async def status(self, ref: IngestRef) -> IngestStatus:
        """The state of one ingest. Raises `NotFoundError`."""
        ...

    async def statuses(self) -> list[IngestStatus]:
        """All ingests of the namespace, in order of ref."""
        ...

    async def abort(self, ref: IngestRef) -> None:
        """Discard an ingest that no writer has open. Raises `NotFoundError`, `UnavailableError`."""
        ...
