"""What builds make: lazy trees, and what is known of them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from lading.core.leases import LeaseID
from lading.core.snapshots import SnapshotName
from lading.formats.llb.definition import Definition
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest


class Compression(Enum):
    """How an exported layer is stored."""

    UNCOMPRESSED = "uncompressed"
    GZIP = "gzip"
    ESTARGZ = "estargz"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerForm:
    """How layers are wanted. Without ``force`` a layer that exists as a blob (of a base image, say) is used as it is."""

    compression: Compression = Compression.GZIP
    level: int | None = None
    force: bool = False
    epoch: int | None = None
    """With it, times in new layers later than this (seconds since the epoch) are set to it (``rewrite-timestamp``)."""
    packed: bool = True
    """Without it there are no blobs: layers are snapshots under their chain IDs, named by their diff IDs (classic store)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a ref: a blob in the content store, or (`LayerForm.packed`) a snapshot under its chain ID."""

    descriptor: Descriptor
    diff_id: DiffID
    vertex: Digest | None = None
    """The vertex that made it, if it was made here; provenance names it."""
    created_at: int = 0
    """Nanoseconds since the epoch; 0 if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat:
    """A file of a ref; ``mode`` is ``st_mode``, times are nanoseconds since the epoch."""

    path: str
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: str = ""
    devmajor: int = 0
    devminor: int = 0


class Ref(Protocol):
    """One lazy tree. Every call but `id` and `definition` solves it if that has not happened yet, and raises what solving raises.

    The same ref may be used by many callers at once; it is solved once. Released with the build that it belongs to.
    """

    @property
    def id(self) -> str:
        """Name of the ref within its build, as clients use it."""
        ...

    @property
    def definition(self) -> Definition:
        """The graph whose result this is."""
        ...

    async def evaluate(self) -> None:
        """Solve it. Idempotent."""
        ...

    async def snapshot(self) -> SnapshotName | None:
        """The committed snapshot of the tree, kept as long as the build; ``None`` for an empty tree."""
        ...

    def mount(self) -> AbstractAsyncContextManager[str]:
        """The tree, mounted read-only at a directory while the context lasts. Resolve paths in it with ``openat2`` only."""
        ...

    async def layers(self, form: LayerForm, *, lease: LeaseID) -> list[Layer]:
        """The tree as layers, bottom first, each a blob in the content store (or a snapshot) that ``lease`` holds.

        Layers of base images keep their own blobs, which may be away (lazy) but have a descriptor and distribution labels.
        """
        ...

    async def read_file(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a regular file; symbolic links are resolved inside the tree. Raises `NotFoundError`."""
        ...

    async def read_dir(self, path: str, *, pattern: str = "") -> list[FileStat]:
        """Entries of a directory in order of name, those that match a pattern if given. Raises `NotFoundError`."""
        ...

    async def stat(self, path: str) -> FileStat:
        """What is known of a file. Raises `NotFoundError`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A statement about one platform's ref, in in-toto's terms; its predicate is ``body``, or the file ``path`` of ``ref``.

    Where ``path`` is ``/``, every file of ``ref`` whose name ends in ``.json`` is a statement of its own.
    """

    predicate_type: str
    body: "bytes | Callable[[Sequence[Layer]], bytes] | None" = None
    """JSON, or what makes it once the exported layers are known (empty if the export has none)."""
    ref: Ref | None = None
    path: str = ""
    inline_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a frontend made: a ref per platform ID (``linux/arm64``), or a single one under ``""``; ``None`` is an empty tree.

    ``metadata`` is BuildKit's: ``containerimage.config`` (``/linux/arm64`` appended if there are several), ``refs.platforms``.
    """

    refs: Mapping[str, Ref | None] = field(default_factory=dict[str, Ref | None])
    metadata: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    attestations: Mapping[str, Sequence[Attestation]] = field(
        default_factory=dict[str, Sequence[Attestation]]
    )
