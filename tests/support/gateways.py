"""A gateway in memory: directories of a client and images are dictionaries; graphs are kept and never run."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from typing_extensions import override

from lading.builder.interactive import Container, ContainerWish
from lading.builder.model import Gateway, Program, ResolvedImage, ResolveMode, Talk
from lading.builder.reports import WarningEvent
from lading.builder.results import FileStat, Layer, LayerForm, Ref
from lading.core.leases import LeaseID
from lading.core.session import Session
from lading.core.snapshots import SnapshotName
from lading.errors import NotFoundError, UnsupportedError
from lading.formats.buildkit.sourcepolicy import Policy
from lading.formats.llb import graph, ops
from lading.formats.llb.definition import Definition
from lading.oci import reference
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest

AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")


@dataclass(slots=True)
class GraphRef(Ref):
    """A graph, and the files of its last source if that is all that it is."""

    _definition: Definition
    files: Mapping[str, bytes]
    evaluated: bool = False

    @property
    @override
    def id(self) -> str:
        return Digest.of(self._definition.ops[-1]).short

    @property
    @override
    def definition(self) -> Definition:
        return self._definition

    @override
    async def evaluate(self) -> None:
        self.evaluated = True

    @override
    async def snapshot(self) -> SnapshotName | None:
        raise UnsupportedError("nothing is run here")

    @override
    def mount(self) -> AbstractAsyncContextManager[str]:
        raise UnsupportedError("nothing is run here")

    @override
    async def layers(self, form: LayerForm, *, lease: LeaseID) -> list[Layer]:
        raise UnsupportedError("nothing is run here")

    @override
    async def read_file(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        if path not in self.files:
            raise NotFoundError(f"open {path}: no such file or directory", subject=path)
        data = self.files[path][offset:]
        return data if length is None else data[:length]

    @override
    async def read_dir(self, path: str, *, pattern: str = "") -> list[FileStat]:
        raise UnsupportedError("nothing is run here")

    @override
    async def stat(self, path: str) -> FileStat:
        raise UnsupportedError("nothing is run here")


@dataclass(slots=True)
class MemoryGateway(Gateway):
    """``files`` are directories by name (``context``, ``dockerfile`` …) or URL; ``configs`` images by name, or name and platform."""

    files: Mapping[str, Mapping[str, bytes]]
    configs: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    given: Mapping[str, Definition] = field(default_factory=dict[str, Definition])
    worker: Sequence[Platform] = (AMD64, ARM64)
    digests: Mapping[str, Digest] = field(default_factory=dict[str, Digest])
    client: Any = None
    program: Callable[[Program, Talk, Callable[[bytes], None]], Awaitable[int]] | None = None
    """Stands for whatever is run."""
    policies: Sequence[Policy] = ()
    programs: Sequence[str] = ()  # pyright: ignore[reportIncompatibleMethodOverride] - a field
    ran: list[Program] = field(default_factory=list[Program])
    warnings: list[WarningEvent] = field(default_factory=list[WarningEvent])
    solved: list[Definition] = field(default_factory=list[Definition])
    looked_up: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    @property
    @override
    def options(self) -> Mapping[str, str]:
        return self.attributes

    @property
    @override
    def inputs(self) -> Mapping[str, Definition]:
        return self.given

    @property
    @override
    def session(self) -> Session | None:
        return self.client

    @property
    @override
    def platforms(self) -> Sequence[Platform]:
        return self.worker

    @override
    async def solve(self, definition: Definition, *, evaluate: bool = False) -> Ref:
        loaded = graph.load(definition)
        self.solved.append(definition)
        assert loaded.result is not None
        op = loaded.vertices[loaded.result.digest].op
        files: Mapping[str, bytes] = {}
        if isinstance(op, ops.SourceOp):
            files = self.files.get(op.identifier.removeprefix("local://"), {})
        return GraphRef(definition, files, evaluated=evaluate)

    @override
    async def resolve_image(
        self,
        reference: str,
        *,
        platform: Platform | None = None,
        mode: ResolveMode = ResolveMode.DEFAULT,
        log_name: str = "",
        store: str = "",
    ) -> ResolvedImage:
        self.looked_up.append((reference, log_name, store))
        shown = f"{reference}::{platform.os}/{platform.architecture}" if platform else reference
        config = self.configs.get(shown, self.configs.get(reference))
        if config is None:
            raise NotFoundError(f"{reference}: not found", subject=reference)
        digest = self.digests.get(reference, Digest.of(config))
        return ResolvedImage(reference=_parse(reference), digest=digest, config=config)

    @override
    def warn(self, event: WarningEvent) -> None:
        self.warnings.append(event)

    @override
    def derived(self, options: Mapping[str, str], inputs: Mapping[str, Definition]) -> Gateway:
        return replace(self, attributes=options, given=inputs)

    @override
    def within(self, program: str) -> Gateway:
        return replace(self, programs=(*self.programs, program))

    @override
    def limited(self, policies: Sequence[Policy]) -> Gateway:
        return replace(self, policies=(*self.policies, *policies))

    @override
    def open_container(self, wish: ContainerWish) -> AbstractAsyncContextManager[Container]:
        raise UnsupportedError("nothing is run here")

    @override
    async def converse(self, program: Program, talk: Talk, log: Callable[[bytes], None]) -> int:
        if self.program is None:
            raise UnsupportedError("nothing is run here")
        self.ran.append(program)
        return await self.program(program, talk, log)


def _parse(text: str) -> reference.Reference:
    return reference.parse(text)
