"""The builder's contracts: who promises what to whom.

**Terms.** A *definition* is a graph of operations (LLB). A *vertex* is one operation of it, named by the digest of its bytes; an
*edge* is one output of a vertex. A *ref* is an edge that somebody may ask for: it is lazy, and solved when its tree is needed. A
*frontend* turns options and files into a *result*: one ref per platform, with metadata. An *exporter* makes something lasting of
a result. A *session* is the client's side of a build (`lading.core.session`).

**Life.** The edge (``api/buildkit``) takes a solve request and starts a *build* in `control`. A frontend (our own Dockerfile one,
or the client, over the bridge) asks a `Gateway` for refs and returns a `Result`; `control` evaluates its refs, hands them to
the exporters, and ends the status stream. Every vertex that any of this touches reports itself to the build's `Progress`.

**Cancellation.** Every call may be cancelled. Work on a vertex goes on as long as one build wants it, and stops when none
does; what it holds (processes, mounts, active snapshots) is gone within a second.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from lading.core.leases import LeaseID
from lading.core.session import Session
from lading.core.snapshots import SnapshotName
from lading.formats.buildkit.sourcepolicy import Policy
from lading.formats.llb.definition import Definition
from lading.formats.llb.metadata import SourceFile, SourceRange
from lading.kit.grpc.connection import Transport
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import DiffID, Digest
from lading.oci.reference import Reference

# What is told while a build runs: the records of a BuildKit status stream. Times are nanoseconds since the epoch, 0 for not yet.


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexEvent:
    """The present state of a vertex. Sent again whenever it changes; the last one stands."""

    digest: Digest
    inputs: tuple[Digest, ...] = ()
    name: str = ""
    cached: bool = False
    started: int = 0
    completed: int = 0
    error: str = ""
    progress_group: tuple[str, str, bool] | None = None
    """ID, name, weak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEvent:
    """One part of a vertex's work, such as a layer that is fetched: ``current`` of ``total`` bytes, 0 for unknown."""

    id: str
    vertex: Digest
    name: str = ""
    current: int = 0
    total: int = 0
    timestamp: int = 0
    started: int = 0
    completed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """Output of a vertex's process: stream 1 or 2."""

    vertex: Digest
    stream: int
    data: bytes
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningEvent:
    """A remark of a frontend, shown after the build. ``level`` 1 is shown by default."""

    vertex: Digest
    level: int
    short: bytes
    detail: tuple[bytes, ...] = ()
    url: str = ""
    source: SourceFile | None = None
    ranges: tuple[SourceRange, ...] = ()


Event = VertexEvent | StatusEvent | LogEvent | WarningEvent


class Progress(Protocol):
    """Takes what happens in one build; never blocks, may be called from any thread."""

    def tell(self, event: Event) -> None:
        """Pass on one event."""
        ...


# Results.


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


# Frontends.


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedImage:
    """An image as a frontend sees it: the reference with its digest, the digest of the target, the config's bytes."""

    reference: Reference
    digest: Digest
    config: bytes


class ResolveMode(Enum):
    """Where the name of an image is looked up."""

    DEFAULT = "default"
    """In the registry, unless a digest is given and there."""
    PREFER_LOCAL = "local"
    """In the store first."""
    FORCE_PULL = "pull"


Talk = Callable[[Transport], Coroutine[Any, Any, None]]
"""Speaks with a program until it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program of a frontend, run as root in a writable copy of ``ref``. ``env`` are ``KEY=value``."""

    ref: Ref
    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    network: bool = True
    platform: Platform


class Gateway(Protocol):
    """What a frontend may ask of the daemon, on behalf of one build. The bridge offers the same to clients."""

    @property
    def options(self) -> Mapping[str, str]:
        """The frontend's attributes: ``filename``, ``platform``, ``build-arg:X`` …"""
        ...

    @property
    def inputs(self) -> Mapping[str, Definition]:
        """Named graphs that the client handed in."""
        ...

    @property
    def session(self) -> Session | None:
        """The client's session, if it has one."""
        ...

    @property
    def platforms(self) -> Sequence[Platform]:
        """What this worker can run; the first is the native one (``BUILDPLATFORM``)."""
        ...

    async def solve(self, definition: Definition, *, evaluate: bool = False) -> Ref:
        """A ref of the build for a graph. With ``evaluate`` it has been solved when the call returns.

        Raises:
            InvalidArgumentError: The graph is malformed.
            VertexError: While solving: an operation failed (`builder.errors`).

        """
        ...

    async def resolve_image(
        self,
        reference: str,
        *,
        platform: Platform | None = None,
        mode: ResolveMode = ResolveMode.DEFAULT,
        log_name: str = "",
        store: str = "",
    ) -> ResolvedImage:
        """Digest and config of an image, told to `Progress` as a vertex named ``log_name``.

        ``store`` names an OCI layout of the session to look in. Raises `NotFoundError` if there is none for the platform.
        """
        ...

    def warn(self, event: WarningEvent) -> None:
        """Add a remark."""
        ...

    def derived(self, options: Mapping[str, str], inputs: Mapping[str, Definition]) -> "Gateway":
        """What another frontend of the same build may ask."""
        ...

    async def converse(self, program: Program, talk: Talk, log: Callable[[bytes], None]) -> int:
        """Run a program to its end; its exit code.

        ``talk`` has its standard input and output, and sees their end; ``log`` what it writes to standard error.
        """
        ...


class Frontend(Protocol):
    """Makes a result out of what a gateway offers; does no I/O of its own."""

    async def build(self, gateway: Gateway) -> Result:
        """Run. Raises `SourceError` (`builder.errors`) with the lines at fault."""
        ...


# Exporters.


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportContext:
    """What an exporter may use. ``index`` is its place in the request, by which the client knows its outputs."""

    ref: str
    """The build's."""
    index: int
    session: Session | None
    progress: Progress
    lease: LeaseID
    inline_cache: Callable[[Ref, Sequence[str]], Awaitable[bytes | None]] | None = None
    """What goes into the config of an image of a ref and these layer blobs, if the client wants the cache there."""


class Exporter(Protocol):
    """Makes something lasting of a result."""

    async def export(self, result: Result, context: ExportContext) -> Mapping[str, str]:
        """Run to the end; what the client is told, such as ``containerimage.digest``.

        Durable when it returns. Raises `InvalidArgumentError` if the result has a form that it cannot express.
        """
        ...


# The solver.


class Solver(Protocol):
    """Solves graphs for many builds at once; the same work is done once."""

    def open_job(
        self,
        ref: str,
        *,
        session: Session | None,
        progress: Progress,
        no_cache: bool = False,
        entitlements: frozenset[str] = frozenset(),
        policies: Sequence[Policy] = (),
    ) -> AbstractAsyncContextManager["Job"]:
        """A build's place in the solver. Leaving it cancels what only this build wanted and releases its refs.

        ``entitlements`` are what the client grants: ``network.host``, ``security.insecure``. ``policies`` are applied to every
        source of every graph, and to every image that is looked up.
        """
        ...

    async def disk_usage(self) -> "Sequence[UsageRecord]":
        """Every cache record; sizes are measured, never guessed."""
        ...

    def prune(self, wish: "PruneWish") -> "AsyncIterator[UsageRecord]":
        """Delete cache records that no build uses; each as it goes."""
        ...


class Job(Protocol):
    """One build in the solver."""

    async def load(self, definition: Definition) -> Ref:
        """A lazy ref for a graph. Raises `InvalidArgumentError` if it is malformed."""
        ...

    async def import_cache(self, kind: str, attributes: Mapping[str, str]) -> None:
        """Look into a cache from now on (``registry``, ``local``); one that is not there is told of and is no error.

        Raises `UnsupportedError` for another kind.
        """
        ...

    async def export_cache(
        self, kind: str, attributes: Mapping[str, str], refs: Sequence[Ref], *, lease: LeaseID
    ) -> Mapping[str, str]:
        """Write the cache of refs of this build to a place; what the client is told. Raises as `import_cache`."""
        ...

    async def inline_cache(
        self, attributes: Mapping[str, str], ref: Ref, layers: Sequence[str], *, lease: LeaseID
    ) -> bytes | None:
        """The cache of a ref as it goes into the config of an image with these layer blobs; ``None`` if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """A cache record as ``docker buildx du`` shows it; times are nanoseconds since the epoch, 0 for never."""

    id: str
    mutable: bool
    in_use: bool
    size: int
    parents: tuple[str, ...]
    created_at: int
    last_used_at: int
    usage_count: int
    description: str
    record_type: str
    """``regular``, ``internal``, ``frontend``, ``source.local``, ``source.git.checkout``, ``exec.cachemount``."""
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneWish:
    """What to prune: what matches any of the containerd filters and was not used within ``keep_seconds``.

    Stops when no more than ``reserved`` bytes are left (all sizes in bytes, 0 for no bound).
    """

    filters: tuple[str, ...] = ()
    all: bool = False
    keep_seconds: float = 0
    reserved: int = 0
    max_used: int = 0
    min_free: int = 0
