"""The bridge: a client that is its own frontend. It asks for refs while the build waits, and returns the result.

BuildKit's clients never ask for a frontend directly: they start a build without one, call these operations, which name the build,
and return what the build then exports.
"""

import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from lading.builder.interactive import Containers
from lading.builder.model import Frontend, Gateway, ResolvedImage, ResolveMode
from lading.builder.reports import WarningEvent
from lading.builder.results import FileStat, Ref, Result
from lading.errors import CancelledError, InvalidArgumentError, LadingError, NotFoundError, UnsupportedError
from lading.formats.buildkit.sourcepolicy import Policy
from lading.formats.llb.definition import Definition
from lading.kit.tasks import task_group
from lading.oci.descriptor import Platform

MakeGateway = Callable[[Mapping[str, str], Mapping[str, Definition]], Gateway]
"""A gateway of the build with these options and inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRef:
    """A ref as the client knows it; ``None`` is an empty tree, whose name is empty."""

    id: str
    ref: Ref | None


class Bridge:
    """The client's side of one build. ``asked`` is told which frontend the client asks for."""

    def __init__(
        self,
        make_gateway: MakeGateway,
        frontends: Mapping[str, Frontend],
        options: Mapping[str, str],
        inputs: Mapping[str, Definition],
        *,
        asked: Callable[[str], None],
    ) -> None:
        self._asked = asked
        self._make_gateway = make_gateway
        self._frontends = frontends
        self.inputs = inputs
        self._gateway = make_gateway(options, inputs)
        self._refs: dict[str, Ref] = {}
        self._outcome: Result | LadingError | None = None
        self._returned = anyio.Event()
        self._calls: set[anyio.CancelScope] = set()
        self._ended = False
        self.containers = Containers(self._gateway.open_container)

    @property
    def platforms(self) -> Sequence[Platform]:
        """What this worker can run."""
        return self._gateway.platforms

    @property
    def outcome(self) -> Result | LadingError | None:
        """What the client returned, or gave up with, so far."""
        return self._outcome

    async def wait_returned(self) -> Result:
        """What the client returned. Raises what it gave up with."""
        await self._returned.wait()
        assert self._outcome is not None
        if isinstance(self._outcome, LadingError):
            raise self._outcome
        return self._outcome

    def give_back(self, outcome: Result | LadingError) -> None:
        """The client's last word; a second one is ignored."""
        if self._outcome is None:
            self._outcome = outcome
            self._returned.set()

    def end(self) -> None:
        """The build is over; calls under way are cancelled."""
        self._ended = True
        for scope in list(self._calls):
            scope.cancel()

    @asynccontextmanager
    async def calling(self) -> AsyncGenerator[None]:
        """A call of the client; it ends with the build."""
        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                if self._ended:
                    scope.cancel()
                yield
            finally:
                self._calls.discard(scope)
        if scope.cancelled_caught:
            raise CancelledError("the build is over")

    async def solve(
        self,
        *,
        definition: Definition | None,
        frontend: str,
        options: Mapping[str, str],
        inputs: Mapping[str, Definition],
        evaluate: bool,
        policies: Sequence[Policy] = (),
    ) -> Result:
        """Refs for a graph, or what a frontend makes; under ``policies`` beside those of the build."""
        if not frontend:
            if definition is None or not definition.ops:
                return Result(refs={"": None})
            gateway = self._gateway.limited(policies)
            return Result(refs={"": await gateway.solve(definition, evaluate=evaluate)})
        self._asked(frontend)
        gateway = self._make_gateway(options, inputs).limited(policies)
        result = await find_frontend(self._frontends, frontend).build(gateway)
        if evaluate:
            await evaluate_all(result)
        return result

    def name(self, ref: Ref | None) -> str:
        """The name by which the client may use a ref from now on; empty for an empty tree."""
        if ref is None:
            return ""
        for name, known in self._refs.items():
            if known is ref:
                return name
        name = ref.id if ref.id and ref.id not in self._refs else uuid.uuid4().hex
        self._refs[name] = ref
        return name

    def ref(self, id: str) -> Ref | None:
        """The ref with this name. Raises `NotFoundError`."""
        if not id:
            return None
        if id not in self._refs:
            raise NotFoundError(f"no such ref: {id[:128]!r}", subject=id[:128])
        return self._refs[id]

    def _tree(self, id: str) -> Ref:
        ref = self.ref(id)
        if ref is None:
            raise InvalidArgumentError("an empty ref has no files")
        return ref

    async def evaluate(self, id: str) -> None:
        """Solve a ref."""
        ref = self.ref(id)
        if ref is not None:
            await ref.evaluate()

    async def read_file(self, id: str, path: str, *, offset: int, length: int | None) -> bytes:
        """Bytes of a file of a ref."""
        return await self._tree(id).read_file(path, offset=offset, length=length)

    async def read_dir(self, id: str, path: str, *, pattern: str) -> list[FileStat]:
        """Entries of a directory of a ref."""
        return await self._tree(id).read_dir(path, pattern=pattern)

    async def stat(self, id: str, path: str) -> FileStat:
        """What is known of a file of a ref."""
        return await self._tree(id).stat(path)

    async def resolve_image(
        self,
        reference: str,
        *,
        platform: Platform | None,
        mode: ResolveMode,
        log_name: str,
        store: str,
        policies: Sequence[Policy] = (),
    ) -> ResolvedImage:
        """Digest and config of an image; under ``policies`` beside those of the build."""
        return await self._gateway.limited(policies).resolve_image(
            reference, platform=platform, mode=mode, log_name=log_name, store=store
        )

    def warn(self, event: WarningEvent) -> None:
        """Add a remark."""
        self._gateway.warn(event)


def find_frontend(frontends: Mapping[str, Frontend], name: str) -> Frontend:
    """The frontend of this name. Raises `UnsupportedError`."""
    if name not in frontends:
        raise UnsupportedError(
            f"this daemon has no frontend {name[:128]!r}",
            hint=f"there is {', '.join(sorted(frontends)) or 'none'}",
        )
    return frontends[name]


async def evaluate_all(result: Result) -> None:
    """Solve every ref of a result, at the same time."""
    async with task_group() as tasks:
        for ref in result.refs.values():
            if ref is not None:
                tasks.start_soon(ref.evaluate)
