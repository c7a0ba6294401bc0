"""Metadata: the durable rows behind content, images, snapshots, leases and containers.

One `Database` per data-root, one writer. Every method is one short transaction that is never held across I/O, and is
durable when it returns unless it says otherwise. Adapters for content and snapshots keep files; what those files *are* stands
here. A row that promises a file is written after the file is durable; a file is deleted after its row is gone.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple, NewType, Protocol

from lading.core import (
    buildcache,
    builds,
    containers,
    content,
    facts,
    images,
    leases,
    networks,
    snapshots,
    volumes,
)
from lading.core.content import IngestRef
from lading.core.leases import LeaseID
from lading.errors import FailedPreconditionError
from lading.oci.digest import Digest

Namespace = NewType("Namespace", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestRow:
    """A leased or expiring ingest. ``expires_at`` counts when no lease holds it."""

    ref: IngestRef
    expected: Digest | None
    total: int
    started_at: datetime
    expires_at: datetime


class Blobs(Protocol):
    """Rows of the blobs and ingests of one namespace."""

    async def get(self, digest: Digest) -> content.Info:
        """Raises `NotFoundError`."""
        ...

    async def list(self) -> "Sequence[content.Info]":
        """In order of digest."""
        ...

    async def infos(self, digests: Collection[Digest]) -> Mapping[Digest, content.Info]:
        """`get` for those of the blobs that are here, in one read."""
        ...

    async def away(self) -> AbstractSet[Digest]:
        """The blobs that `set_away` has noted as away."""
        ...

    async def set_away(self, away: Mapping[Digest, bool]) -> None:
        """Note whether the bytes of blobs are away, to be made again: what is counted and collected has no size then.

        Digests without a row are passed over; `add` of any namespace notes that they are here. A power cut may take
        the note: a start compares it with the files.
        """
        ...

    async def sizes(self, digests: Collection[Digest]) -> Mapping[str, int]:
        """Length in bytes of those of the blobs that are here, in one read."""
        ...

    async def add(
        self,
        digest: Digest,
        size: int,
        *,
        labels: content.Labels,
        ref: IngestRef | None = None,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> content.Info:
        """Insert the row, or add ``labels`` to the one that is there; join ``lease``; drop the row of ingest ``ref``.

        ``size`` is the blob's length in bytes. Without ``durable`` it need not be so before the next call that is.
        Resurrects a blob that the collector has condemned but not yet deleted.
        """
        ...

    async def add_many(
        self,
        sizes: Mapping[Digest, int],
        *,
        labels: Mapping[Digest, content.Labels] = content.NO_LABELS_OF_MANY,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> None:
        """`add` for many blobs in one transaction."""
        ...

    async def label(self, labels: Mapping[Digest, content.Labels], *, lease: LeaseID | None = None) -> None:
        """Add labels to those of the blobs that are here, which join ``lease``, in one transaction."""
        ...

    async def hold(self, digest: Digest, lease: LeaseID) -> bool:
        """Let ``lease`` hold the blob if it is in the namespace; whether it is."""
        ...

    async def update(
        self, digest: Digest, labels: Mapping[str, str | None], *, durable: bool = True
    ) -> content.Info:
        """Set or (with ``None``) remove labels. Raises `NotFoundError`."""
        ...

    async def delete(self, digest: Digest) -> bool:
        """Delete the row; whether no namespace has the blob any more, so that its file may go. Raises `NotFoundError`."""
        ...

    async def present(self, digest: Digest) -> int | None:
        """Size of the blob if any namespace has it."""
        ...

    async def elsewhere(self, digest: Digest) -> bool:
        """Whether another namespace has the blob."""
        ...

    async def open_ingest(self, row: IngestRow, *, lease: LeaseID | None = None) -> None:
        """Insert or replace the row of an ingest, which joins ``lease``. Need not be durable before the next call that is."""
        ...

    async def ingests(self) -> "Sequence[IngestRow]":
        """In order of ref."""
        ...

    async def close_ingest(self, ref: IngestRef) -> None:
        """Delete the row of an ingest; idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRow:
    """A snapshot as the database knows it. ``id`` names its directory, is unique in the data-root and never reused.

    ``boot_id`` is the boot in which a snapshot was committed whose data was not flushed yet; empty once durable.
    """

    id: int
    info: snapshots.SnapshotInfo
    usage: snapshots.Usage
    boot_id: str = ""
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the snapshotter needs to remember, e.g. the device layout of an EROFS layer."""


TREE: Final = "tree"
"""Key in `SnapshotRow.extra` for snapshotters whose directories have names of their own: see `Snapshots.removed`."""


class Snapshots(Protocol):
    """Rows of the snapshots of one namespace and one snapshotter."""

    async def get(self, key: str) -> SnapshotRow:
        """Raises `NotFoundError`."""
        ...

    async def chain(self, key: str) -> "Sequence[SnapshotRow]":
        """The row of ``key`` and of all its parents, top first, in one read. Raises `NotFoundError`."""
        ...

    async def list(self) -> "Sequence[SnapshotRow]":
        """In order of key."""
        ...

    async def allocate(self) -> int:
        """A fresh directory ID."""
        ...

    async def create(
        self,
        key: str,
        *,
        id: int,
        kind: snapshots.Kind,
        parent: str | None,
        labels: snapshots.Labels,
        usage: snapshots.Usage,
        boot_id: str = "",
        extra: Mapping[str, str] | None = None,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> SnapshotRow:
        """Insert a row, also a committed one. A power cut may take one that need not be ``durable``, or that has a ``boot_id``.

        Raises `AlreadyExistsError` if the key is taken; `NotFoundError` if the parent is missing; `InvalidArgumentError` if it is
        not committed.
        """
        ...

    async def commit(
        self,
        name: str,
        key: str,
        *,
        labels: snapshots.Labels,
        usage: snapshots.Usage,
        boot_id: str = "",
        lease: LeaseID | None = None,
    ) -> SnapshotRow:
        """Active to committed under a new name. Raises as `lading.core.snapshots.Snapshotter.commit`."""
        ...

    async def mark_durable(self, ids: Sequence[int]) -> None:
        """Clear ``boot_id`` after the data was flushed."""
        ...

    async def mark_lost(self, ids: Sequence[int]) -> None:
        """Note that flushing the data failed: to every boot, also this one, ``boot_id`` is then a foreign one."""
        ...

    async def discard_foreign_boots(self, boot_id: str) -> "Sequence[SnapshotRow]":
        """Delete committed rows of other boots that never became durable, with committed descendants; returns them.

        Active snapshots and views keep their row: their parent is unpacked again under the same name before use.
        """
        ...

    async def hold(self, key: str, lease: LeaseID) -> bool:
        """Let ``lease`` hold the snapshot if it exists; whether it does."""
        ...

    async def update(self, key: str, labels: Mapping[str, str | None]) -> SnapshotRow:
        """Set or remove labels. Raises `NotFoundError`."""
        ...

    async def delete(self, key: str) -> SnapshotRow:
        """Delete a row and return it. Raises `NotFoundError`; `FailedPreconditionError` while it has children."""
        ...

    async def replace(self, name: str, copy: str) -> SnapshotRow:
        """Let ``name`` be what ``copy`` is (`SnapshotRow.id`, usage, boot, ``extra``), and delete the row of ``copy``.

        Returns the row that ``name`` had. Raises as `lading.core.snapshots.Snapshotter.replace`.
        """
        ...

    async def removed(self) -> "AbstractSet[tuple[str, str]]":
        """Key and `TREE` of committed snapshots whose rows went, by whatever call, until `forget_removed`.

        They are noted together with the deletion, so that no crash leaves a tree that nobody knows of.
        """
        ...

    async def forget_removed(self, gone: "Collection[tuple[str, str]]") -> None:
        """The trees of these are on their way out by other means. Need not be durable; unknown ones are passed over."""
        ...


def check_replaceable(row: SnapshotRow, copy: SnapshotRow, *, child: str | None) -> None:
    """Raise `FailedPreconditionError` if ``copy``, on which ``child`` stands, cannot take the place of ``row``."""
    for each in (row, copy):
        if each.info.kind is not snapshots.Kind.COMMITTED:
            raise FailedPreconditionError(f"snapshot {each.info.key} is not committed", subject=each.info.key)
    if row.info.parent != copy.info.parent or child is not None:
        raise FailedPreconditionError(
            f"snapshot {copy.info.key} is no copy of {row.info.key}: "
            f"{f'{child} stands on it' if child else 'it stands on something else'}",
            subject=copy.info.key,
        )


class Node(NamedTuple):
    """One thing that the collector can keep or delete. ``scope`` is the snapshotter's name for snapshots, else empty."""

    kind: str
    """``content``, ``snapshot``, ``image``, ``lease``, ``container`` or ``ingest``."""
    id: str
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Everything of one namespace at one moment: all nodes, which of them are roots, and what each refers to.

    An edge may name a node that does not exist; it then keeps nothing, not even what says that it is kept by that node.
    """

    nodes: frozenset[Node]
    roots: Mapping[Node, str]
    """Root to the reason why it is one, in words for `lading why`."""
    edges: Mapping[Node, Sequence[Node]]
    flat: frozenset[Node]
    """Leases labelled ``gc.flat``: their resources' own edges do not count."""
    version: int
    """Rises with every mutation of the namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What no root of a namespace leads to at one moment."""

    garbage: Mapping[Node, int]
    """With the bytes of each blob and snapshot."""
    edges: Mapping[Node, Sequence[Node]]
    """What snapshots that are garbage refer to among each other."""
    kept: int
    """Number of nodes that are needed."""
    version: int
    """As `Graph.version`."""


def reachable(starts: Iterable[Node], edges: Mapping[Node, Sequence[Node]]) -> set[Node]:
    """Everything that ``starts`` lead to, themselves included. Time and memory are linear in nodes and edges."""
    seen = set(starts)
    stack = list(seen)
    while stack:
        for node in edges.get(stack.pop(), ()):
            if node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


class Database(Protocol):
    """All metadata of one data-root. The stores it returns are cheap and may be made per call."""

    def blobs(self, namespace: Namespace) -> Blobs:
        """Rows of a namespace's blobs."""
        ...

    def snapshots(self, namespace: Namespace, snapshotter: str) -> Snapshots:
        """Rows of a namespace's snapshots on one snapshotter."""
        ...

    def images(self, namespace: Namespace) -> images.Store:
        """A namespace's image records."""
        ...

    def facts(self, namespace: Namespace) -> facts.Store:
        """What a namespace's images say and take."""
        ...

    def leases(self, namespace: Namespace) -> leases.Manager:
        """A namespace's leases."""
        ...

    def containers(self, namespace: Namespace) -> containers.Store:
        """A namespace's container records."""
        ...

    def builds(self, namespace: Namespace) -> builds.Store:
        """A namespace's build records."""
        ...

    def build_cache(self, namespace: Namespace) -> buildcache.BuildCache:
        """A namespace's build cache."""
        ...

    def networks(self, namespace: Namespace) -> networks.Store:
        """A namespace's network records."""
        ...

    def volumes(self, namespace: Namespace) -> volumes.Store:
        """A namespace's volume records."""
        ...

    async def namespaces(self) -> list[Namespace]:
        """All namespaces that hold anything, sorted."""
        ...

    async def graph(self, namespace: Namespace, *, now: datetime) -> Graph:
        """All that is there and what keeps it (containerd's rules), read from one consistent snapshot; blocks no writer."""
        ...

    async def mark(self, namespace: Namespace, *, now: datetime, without: Collection[str] = ()) -> Marked:
        """What no root leads to in `graph`, by the same rules, without holding anyone up however large the graph is.

        ``without`` names images that are taken for removed, to learn what that would free.
        """
        ...

    async def condemn(
        self, namespace: Namespace, nodes: Sequence[Node], *, version: int, now: datetime
    ) -> list[Node]:
        """Delete the rows of those ``nodes`` that nothing came to need since ``version``; returns the ones deleted.

        The nodes must have been garbage then. One short transaction. Snapshots are deleted children first. Files are the caller's
        to delete afterwards.
        """
        ...

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """Hold off every writer of this process, for backup and repair."""
        ...

    async def setting(self, key: str) -> str | None:
        """A value that the daemon remembers, e.g. its ID."""
        ...

    async def set_setting(self, key: str, value: str) -> None:
        """Remember a value."""
        ...

    async def close(self) -> None:
        """Flush and close. Idempotent."""
        ...
