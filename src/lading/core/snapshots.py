"""Snapshots: stacks of layers that can be mounted.

**Terms.** A snapshot is *active* (writable, named by a `SnapshotKey`), a *view* (read-only, named by a key), or
*committed* (immutable, named by a `SnapshotName`, which for image layers is the chain ID). Its *parent* is a committed
snapshot or nothing. Keys and names of one namespace share one space and are unique in it.

**Life.** ``prepare(key, parent)`` makes an active snapshot that shows the parent's tree; its mounts are used to change
it; ``commit(name, key)`` turns it into a committed one, and the key is gone. ``view`` is a read-only prepare.
``open_layer(name, parent)`` makes a committed snapshot directly from a layer's tar stream: it is how images are
unpacked. ``remove`` deletes a snapshot that has no children. A committed snapshot never changes; an active one is
never a parent.

**Durability.** *Lazy-durable* (the default): an unpacked layer may be acknowledged before its data is flushed; it is
marked with the boot that made it, and after an unclean boot it is not there any more, so that it is unpacked again
from its durable blob. *Strict*: ``commit`` returns when the data is durable. Active snapshots promise what the file system
promises to whoever writes into them, nothing less.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import NewType, Protocol

from typing_extensions import Buffer

from lading.core.leases import LeaseID
from lading.core.mounts import Mount
from lading.errors import DataLossError
from lading.oci.digest import DiffID

SnapshotKey = NewType("SnapshotKey", str)
SnapshotName = NewType("SnapshotName", str)
Labels = Mapping[str, str]
NO_LABELS: Labels = {}


class Kind(Enum):
    """What a snapshot can do now."""

    ACTIVE = "active"
    VIEW = "view"
    COMMITTED = "committed"


class Capability(Enum):
    """Abilities that not every snapshotter has; declared, never guessed."""

    PARALLEL_LAYERS = "parallel-layers"
    """`Snapshotter.open_layer` takes bytes before the parent is committed; only `LayerWriter.commit` needs it."""
    REBUILDS = "rebuilds"
    """A layer committed with the label `lading.core.labels.LAYER_BLOB` keeps its contents only as long as there is room: they are
    made again from that blob when the layer is used."""
    LIMITS = "limits"
    """`Snapshotter.prepare` takes a limit."""
    REPLACES = "replaces"
    """`Snapshotter.compare` and `Snapshotter.replace` are there, for layers that were damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """What is known of a snapshot; times are UTC."""

    key: str
    """Its key (active, view) or name (committed)."""
    kind: Kind
    parent: SnapshotName | None
    created_at: datetime
    updated_at: datetime
    labels: Labels = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Allocated bytes and inodes of one snapshot, without its parents."""

    size: int
    inodes: int


class DiffIDMismatchError(DataLossError):
    """A layer's tar stream is not the one that its diff ID names."""

    code = "diff-id-mismatch"


class LayerWriter(Protocol):
    """A layer being unpacked. `write` and `finish` are blocking and belong on a data thread.

    Leaving its context without `commit` discards everything.
    """

    def write(self, data: Buffer) -> None:
        """Take the next bytes of the *uncompressed* tar stream; ``data`` may be reused when the call returns.

        Raises:
            InvalidArgumentError: The layer is hostile or malformed (hostile-input.md, T rows); nothing will be visible.
            ResourceExhaustedError: The disk or a limit is full.

        """
        ...

    def finish(self) -> DiffID:
        """No more bytes: check that the archive is complete. The diff ID of all bytes written."""
        ...

    async def commit(self, *, labels: Labels = NO_LABELS) -> None:
        """Publish the layer under its name, after `finish`. Idempotent if the name was committed meanwhile.

        Raises:
            FailedPreconditionError: `finish` was not called, or the parent is not committed.
            DiffIDMismatchError: The stream was not what ``diff_id`` promised.

        """
        ...


class Snapshotter(Protocol):
    """The snapshots of one namespace on one kind of storage."""

    @property
    def name(self) -> str:
        """Name as in configuration and labels, e.g. ``overlayfs``."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this snapshotter can do beyond the rest of this contract."""
        ...

    async def stat(self, key: str) -> SnapshotInfo:
        """What is known of the snapshot with this key or name. Raises `NotFoundError`."""
        ...

    async def update(self, key: str, labels: Mapping[str, str | None]) -> SnapshotInfo:
        """Set or (with ``None``) remove labels. Raises `NotFoundError`."""
        ...

    def walk(self) -> AsyncIterator[SnapshotInfo]:
        """All snapshots of the namespace, in order of key, as they were when the walk began."""
        ...

    async def usage(self, key: str) -> Usage:
        """Allocated size without parents: kept for committed snapshots, measured for active ones. Raises `NotFoundError`."""
        ...

    async def mounts(self, key: SnapshotKey) -> list[Mount]:
        """The mounts that show an active snapshot or a view; stable across restarts. Raises `NotFoundError`;
        `FailedPreconditionError` for a committed snapshot.
        """
        ...

    def shown(self, name: SnapshotName) -> AbstractAsyncContextManager[list[Mount]]:
        """Read-only mounts of a committed snapshot, good while the context lasts. Unlike a `view` it leaves no trace.

        Raises `NotFoundError`; `FailedPreconditionError` if it is not committed.
        """
        ...

    async def prepare(
        self,
        key: SnapshotKey,
        parent: SnapshotName | None,
        *,
        labels: Labels = NO_LABELS,
        lease: LeaseID | None = None,
        durable: bool = True,
        limit: int = 0,
    ) -> list[Mount]:
        """Create an active snapshot. Without ``durable`` it means nothing after an unclean boot, and can only be removed then.

        ``limit`` (bytes, 0 for none) bounds what is written into it: beyond that the kernel says ENOSPC. Such a snapshot cannot
        be committed, and its mounts are good once `mounts` was called in this boot.

        Raises `AlreadyExistsError` if the key or name is taken; `NotFoundError` if the parent is missing;
        `InvalidArgumentError` if the parent is not committed or the limit is out of range; `UnsupportedError` for a limit without
        `Capability.LIMITS`.
        """
        ...

    async def view(
        self,
        key: SnapshotKey,
        parent: SnapshotName | None,
        *,
        labels: Labels = NO_LABELS,
        lease: LeaseID | None = None,
    ) -> list[Mount]:
        """Create a read-only snapshot; raises as `prepare`."""
        ...

    async def commit(
        self,
        name: SnapshotName,
        key: SnapshotKey,
        *,
        labels: Labels = NO_LABELS,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> None:
        """Turn an active snapshot into a committed one; its key is gone. The caller has unmounted it.

        Without ``durable`` it may be gone after an unclean boot, as a lazy-durable layer, for those who can make it again.

        Raises `AlreadyExistsError` if the name is taken; `NotFoundError` if the key is missing;
        `FailedPreconditionError` if it is not active.
        """
        ...

    def open_layer(
        self,
        name: SnapshotName,
        parent: SnapshotName | None,
        *,
        diff_id: DiffID,
        compressed_size: int = 0,
        lease: LeaseID | None = None,
    ) -> AbstractAsyncContextManager[LayerWriter]:
        """Unpack a layer on top of ``parent`` into the committed snapshot ``name``.

        Without `Capability.PARALLEL_LAYERS` the parent must be committed already. ``compressed_size`` (bytes, 0 if
        unknown) bounds how much a layer may inflate to (hostile-input.md T15).

        Raises:
            AlreadyExistsError: ``name`` is committed (it joins ``lease``).

        """
        ...

    def open_stream(self, name: SnapshotName) -> AbstractAsyncContextManager[int]:
        """A descriptor of the tar stream that the layer ``name`` was made of, byte for byte, perhaps with zeros behind it.

        It can be read with ``pread`` while the context lasts. What it gives is durable.

        Raises:
            NotFoundError: There is no such snapshot.
            FailedPreconditionError: The layer is not durable yet.
            UnsupportedError: The stream is not kept, or is itself made again when it is needed.

        """
        ...

    async def compare(self, name: SnapshotName, copy: SnapshotName) -> str:
        """How a layer differs from one that was unpacked again from the same stream on the same parent, or empty. Reads both.

        Raises `NotFoundError`; `UnsupportedError` without `Capability.REPLACES`.
        """
        ...

    async def replace(self, name: SnapshotName, copy: SnapshotName) -> None:
        """Put ``copy`` in the place of the layer ``name``, which keeps its labels and what stands on it; the copy's name is gone.

        Durable when it returns. The caller has seen to it that nothing that is mounted stands on the layer.

        Raises `NotFoundError`; `FailedPreconditionError` if either is not committed, they have different parents, or something
        stands on the copy; `UnsupportedError` without `Capability.REPLACES`.
        """
        ...

    def upper(self, key: SnapshotKey) -> AbstractAsyncContextManager[str]:
        """The directory that holds what an active snapshot changed, in overlayfs's on-disk form (whiteouts as 0:0
        character devices, ``trusted.overlay.opaque``), for diff and size.

        Raises:
            UnsupportedError: This snapshotter keeps no such directory; compare the mounted trees instead.

        """
        ...

    async def remove(self, key: str) -> None:
        """Delete a snapshot; its files may go later, in the background, and never come back.

        Raises `NotFoundError`; `FailedPreconditionError` while it has children.
        """
        ...

    async def sweep(self) -> int:
        """Delete what belongs to no snapshot any more, such as files of rows that the collector deleted; the bytes freed.

        May run beside everything else.
        """
        ...

    async def close(self) -> None:
        """Let go of everything this process holds; snapshots and their mounts stay. Idempotent."""
        ...
