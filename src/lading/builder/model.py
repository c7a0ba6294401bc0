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
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from lading.builder.interactive import Container, ContainerWish
from lading.builder.reports import Progress, WarningEvent
from lading.builder.results import Ref, Result
from lading.core.leases import LeaseID
from lading.core.session import Session
from lading.errors import InvalidArgumentError
from lading.formats.buildkit.sourcepolicy import Policy
from lading.formats.llb.definition import Definition
from lading.kit.grpc.connection import Transport
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest
from lading.oci.reference import Reference

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

    @classmethod
    def parse(cls, text: str) -> "ResolveMode":
        """As clients, frontends and graphs say it; nothing is the default. Raises `InvalidArgumentError`."""
        try:
            return cls(text or "default")
        except ValueError as exc:
            raise InvalidArgumentError(f"invalid image-resolve-mode: {text[:64]}") from exc


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

    @property
    def programs(self) -> Sequence[str]:
        """The images of the frontends whose programs wait for what is asked here, the outermost first."""
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

    def within(self, program: str) -> "Gateway":
        """The same, for the program of a frontend's image."""
        ...

    def limited(self, policies: Sequence[Policy]) -> "Gateway":
        """The same, with further policies for what is asked of it."""
        ...

    def open_container(self, wish: ContainerWish) -> AbstractAsyncContextManager[Container]:
        """A container for processes that somebody runs by hand; see `lading.builder.interactive`."""
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
