"""What a frontend may ask of the daemon, on behalf of one build."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import msgspec
from typing_extensions import override

from lading.builder.interactive import Container, ContainerWish, OpenContainer
from lading.builder.model import Gateway, Program, ResolvedImage, ResolveMode, Talk
from lading.builder.ops.images import Image, ImageSources
from lading.builder.reports import Progress, VertexEvent, WarningEvent
from lading.builder.results import Ref
from lading.core.leases import LeaseID
from lading.core.session import Session
from lading.errors import FailedPreconditionError, InvalidArgumentError, LadingError
from lading.formats.buildkit import sourcepolicy
from lading.formats.buildkit.sourcepolicy import Policy, Source
from lading.formats.llb.definition import Definition
from lading.oci import platform as platform_rules
from lading.oci import reference as references
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest

_IMAGE: Final = "docker-image://"
Converse = Callable[[Program, Talk, Callable[[bytes], None]], Awaitable[int]]
"""As `Gateway.converse`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildTools:
    """What all gateways of one build share."""

    load: Callable[[Definition, Sequence[Policy]], Awaitable[Ref]]
    """As `Job.load`, under these policies."""
    session: Session | None
    progress: Progress
    images: ImageSources
    platforms: Sequence[Platform]
    lease: LeaseID
    import_cache: Callable[[str, Mapping[str, str]], Awaitable[None]]
    converse: Converse
    open_container: OpenContainer


class BuildGateway(Gateway):
    """`Gateway` of one build."""

    def __init__(
        self,
        tools: BuildTools,
        *,
        options: Mapping[str, str],
        inputs: Mapping[str, Definition],
        policies: Sequence[Policy] = (),
        programs: Sequence[str] = (),
    ) -> None:
        self._tools = tools
        self._imports = _imports(options)
        self._options = options
        self._inputs = inputs
        self._policies = policies
        self._programs = programs

    @property
    @override
    def options(self) -> Mapping[str, str]:
        return self._options

    @property
    @override
    def inputs(self) -> Mapping[str, Definition]:
        return self._inputs

    @property
    @override
    def session(self) -> Session | None:
        return self._tools.session

    @property
    @override
    def platforms(self) -> Sequence[Platform]:
        return self._tools.platforms

    @property
    @override
    def programs(self) -> Sequence[str]:
        return self._programs

    @override
    async def solve(self, definition: Definition, *, evaluate: bool = False) -> Ref:
        # A client that is its own frontend says what to import as an attribute (BuildKit, client/solve.go).
        while self._imports:
            await self._tools.import_cache(*self._imports.pop(0))
        ref = await self._tools.load(definition, self._policies)
        if evaluate:
            await ref.evaluate()
        return ref

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
        reference = self._used(reference, store)
        name = log_name or f"resolve image config for {reference}"
        vertex = Digest.of(f"{name} {reference}".encode())
        started = time.time_ns()
        self._tools.progress.tell(VertexEvent(digest=vertex, name=name, started=started))
        error = ""
        try:
            image = await self._find(reference, platform, mode, store)
        except LadingError as exc:
            error = str(exc)
            raise
        finally:
            self._tools.progress.tell(
                VertexEvent(digest=vertex, name=name, started=started, completed=time.time_ns(), error=error)
            )
        target = image.target
        pinned = references.parse(reference)
        if pinned.digest is None:
            pinned = pinned.with_default_tag().with_digest(target)
        return ResolvedImage(reference=pinned, digest=target, config=image.body)

    def _used(self, name: str, store: str) -> str:
        """The image that the policies put in place of one."""
        if not self._policies or store:
            return name
        source = Source(identifier=f"{_IMAGE}{references.parse(name).with_default_tag()}")
        try:
            found = sourcepolicy.evaluate(self._policies, source).identifier
        except LadingError as exc:
            raise type(exc)(f"could not resolve image due to policy: {exc.message}", subject=name) from exc
        if not found.startswith(_IMAGE):
            raise FailedPreconditionError(
                f"the source policy makes {found} of the image {name}", subject=name
            )
        return found.removeprefix(_IMAGE)

    async def _find(self, reference: str, platform: Platform | None, mode: ResolveMode, store: str) -> Image:
        wanted = platform_rules.normalize(platform or self._tools.platforms[0])
        if not store:
            sessions = [self._tools.session] if self._tools.session is not None else []
            return await self._tools.images.find(
                reference, wanted, mode=mode, sessions=sessions, lease=self._tools.lease
            )
        if self._tools.session is None:
            raise FailedPreconditionError("an OCI layout needs a client that is connected")
        name, _, digest = reference.partition("@")
        return await self._tools.images.find_in_layout(
            name,
            Digest(digest),
            wanted,
            session=self._tools.session,
            store=f"oci:{store}",
            lease=self._tools.lease,
        )

    @override
    def warn(self, event: WarningEvent) -> None:
        self._tools.progress.tell(event)

    @override
    def derived(self, options: Mapping[str, str], inputs: Mapping[str, Definition]) -> Gateway:
        return BuildGateway(
            self._tools, options=options, inputs=inputs, policies=self._policies, programs=self._programs
        )

    @override
    def within(self, program: str) -> Gateway:
        return BuildGateway(
            self._tools,
            options=self._options,
            inputs=self._inputs,
            policies=self._policies,
            programs=(*self._programs, program),
        )

    @override
    def limited(self, policies: Sequence[Policy]) -> Gateway:
        if not policies:
            return self
        return BuildGateway(
            self._tools,
            options=self._options,
            inputs=self._inputs,
            policies=(*self._policies, *policies),
            programs=self._programs,
        )

    @override
    def open_container(self, wish: ContainerWish) -> AbstractAsyncContextManager[Container]:
        return self._tools.open_container(wish)

    @override
    async def converse(self, program: Program, talk: Talk, log: Callable[[bytes], None]) -> int:
        return await self._tools.converse(program, talk, log)


class _Import(msgspec.Struct, rename="pascal"):
    """An entry of ``cache-imports``."""

    type: str = ""
    attrs: dict[str, str] | None = None


def _imports(options: Mapping[str, str]) -> list[tuple[str, Mapping[str, str]]]:
    """What ``cache-imports`` asks for. Raises `InvalidArgumentError`."""
    text = options.get("cache-imports", "")
    if not text:
        return []
    try:
        entries = msgspec.json.decode(text, type=list[_Import])
    except msgspec.MsgspecError as exc:
        raise InvalidArgumentError(f"cache-imports is malformed: {exc}") from exc
    return [(one.type, one.attrs or {}) for one in entries]
