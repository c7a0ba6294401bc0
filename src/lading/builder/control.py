"""Builds under way: from a client's wish to what its exporters made.

Clients call in any order: the bridge, the status stream and the session of a build may ask for it before it is there. So every
lookup waits a while, as BuildKit's do.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import anyio
import msgspec

from lading.builder.bridge import Bridge, evaluate_all, find_frontend
from lading.builder.model import ExportContext, Exporter, Frontend, Gateway, Job, Solver
from lading.builder.progress import ProgressLog
from lading.builder.reports import Event, Progress
from lading.builder.results import Ref, Result
from lading.core import leases
from lading.core.session import Session, Sessions
from lading.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, UnsupportedError
from lading.formats.buildkit.sourcepolicy import Policy
from lading.formats.llb.definition import Definition
from lading.kit.tasks import Signal

BRIDGE_SECONDS: Final = 3.0
STATUS_SECONDS: Final = 6.0
UNRECORDED: Final = 256
INLINE: Final = "inline"
CACHES: Final = frozenset({INLINE, "registry", "local"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportWish:
    """One output: ``image``, ``moby``, ``oci``, ``docker``, ``local``, ``tar``, with its attributes."""

    type: str
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheWish:
    """A cache to read or to write: ``inline``, ``registry``, ``local``, with its attributes."""

    type: str
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveWish:
    """What a client asks to build. Without a frontend and a definition the client is its own frontend, over the bridge."""

    ref: str
    session: str = ""
    definition: Definition | None = None
    frontend: str = ""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    inputs: Mapping[str, Definition] = field(default_factory=dict[str, Definition])
    exports: Sequence[ExportWish] = ()
    cache_exports: Sequence[CacheWish] = ()
    cache_imports: Sequence[CacheWish] = ()
    entitlements: frozenset[str] = frozenset()
    internal: bool = False
    """Not for the history."""
    policies: Sequence[Policy] = ()
    """What is said of the sources that it may use."""


class _Place(msgspec.Struct, frozen=True):
    """An entry of ``refs.platforms``."""

    id: str = msgspec.field(name="ID")


class _Places(msgspec.Struct, frozen=True):
    """``refs.platforms``."""

    platforms: tuple[_Place, ...] = msgspec.field(name="Platforms", default=())


class _Import(msgspec.Struct, frozen=True):
    """An entry of the option ``cache-imports``."""

    type: str = msgspec.field(name="Type", default="")
    attributes: dict[str, str] = msgspec.field(name="Attrs", default_factory=dict[str, str])


def imports_of(wish: SolveWish) -> Sequence[CacheWish]:
    """The caches to look into; clients name them in the request, or in an option for their frontend."""
    try:
        asked = msgspec.json.decode(wish.options.get("cache-imports") or "[]", type=list[_Import])
    except msgspec.MsgspecError as exc:
        raise InvalidArgumentError("the option cache-imports is malformed") from exc
    found = list(wish.cache_imports)
    for each in asked:
        cache = CacheWish(type=each.type, attributes=each.attributes)
        if cache not in found:
            found.append(cache)
    return found


def check_caches(wish: SolveWish) -> None:
    """Refuse what cannot be honoured before anything is built. Raises `UnsupportedError`."""
    for cache in (*wish.cache_exports, *imports_of(wish)):
        if cache.type not in CACHES:
            raise UnsupportedError(
                f"caches of type {cache.type[:64]!r} are not offered", hint=f"use {', '.join(sorted(CACHES))}"
            )


def _inline(
    wish: SolveWish, job: Job, lease: leases.LeaseID
) -> Callable[[Ref, Sequence[str]], Awaitable[bytes | None]] | None:
    wanted = next((cache for cache in wish.cache_exports if cache.type == INLINE), None)
    if wanted is None:
        return None

    async def inline(ref: Ref, layers: Sequence[str]) -> bytes | None:
        return await job.inline_cache(wanted.attributes, ref, layers, lease=lease)

    return inline


def in_order(result: Result) -> Result:
    """The result with its platforms as the frontend listed them; on the wire they have no order."""
    try:
        listed = msgspec.json.decode(result.metadata.get("refs.platforms", b"{}"), type=_Places)
    except msgspec.MsgspecError as exc:
        raise InvalidArgumentError("refs.platforms of the result is malformed") from exc
    places = {place.id: number for number, place in enumerate(listed.platforms)}
    keys = sorted(result.refs, key=lambda key: (places.get(key, len(places)), key))
    return replace(result, refs={key: result.refs[key] for key in keys})


class MakeGateway(Protocol):
    """Makes what a frontend may ask of one build."""

    def __call__(
        self,
        job: Job,
        wish: SolveWish,
        *,
        options: Mapping[str, str],
        inputs: Mapping[str, Definition],
        session: Session | None,
        progress: Progress,
    ) -> Gateway:
        """A gateway with these options and inputs."""
        ...


class MakeExporter(Protocol):
    """Makes the exporter for a wish. Raises `InvalidArgumentError` for attributes that it does not know."""

    def __call__(self, wish: ExportWish, build: SolveWish) -> Exporter:
        """An exporter."""
        ...


class Finisher(Protocol):
    """Takes part between a result and its export, such as by adding attestations."""

    async def finish(self, result: Result, build: "Build") -> Result:
        """The result to export."""
        ...


class Recorder(Protocol):
    """Keeps what is known of builds after they are over."""

    async def began(self, build: "Build") -> None:
        """A build began."""
        ...

    async def ended(self, build: "Build", response: Mapping[str, str], error: BaseException | None) -> None:
        """A build is over; its progress is complete."""
        ...

    def replay(self, ref: str) -> AsyncIterator[Sequence[Event]]:
        """The progress of a build that is over. Raises `NotFoundError`."""
        ...


@dataclass(slots=True, kw_only=True)
class Build:
    """A build under way."""

    wish: SolveWish
    log: ProgressLog
    started: int
    """Nanoseconds since the epoch."""
    lease: leases.LeaseID
    bridge: Bridge | None = None
    session: Session | None = None
    frontend: str = ""
    """What made the result, also if it was asked for over the bridge."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    result: Result | None = None


class Control:
    """All builds of the daemon."""

    def __init__(
        self,
        *,
        solver: Solver,
        sessions: Sessions,
        lease_manager: leases.Manager,
        frontends: Mapping[str, Frontend],
        make_gateway: MakeGateway,
        make_exporter: MakeExporter,
        finishers: Sequence[Finisher] = (),
        recorder: Recorder | None = None,
    ) -> None:
        self._solver = solver
        self._sessions = sessions
        self._leases = lease_manager
        self._frontends = frontends
        self._make_gateway = make_gateway
        self._make_exporter = make_exporter
        self._finishers = finishers
        self._recorder = recorder
        self._builds: dict[str, Build] = {}
        self._unrecorded: dict[str, ProgressLog] = {}
        """The last builds that are over and in no history: a client may ask for one that was quicker than its question."""
        self._changed = Signal()

    @property
    def builds(self) -> Mapping[str, Build]:
        """The builds under way by their ref."""
        return self._builds

    @property
    def solver(self) -> Solver:
        """What solves them."""
        return self._solver

    def _has_changed(self) -> None:
        self._changed.wake()

    async def bridge(self, ref: str) -> Bridge:
        """The bridge of a build; waits a while for the build, and as long as it lives for what comes before, such as caches that
        are imported. Raises `NotFoundError`.
        """
        with anyio.move_on_after(BRIDGE_SECONDS):
            while ref not in self._builds:
                await self._changed.wait()
        while (build := self._builds.get(ref)) is not None:
            if build.bridge is not None:
                return build.bridge
            await self._changed.wait()
        raise NotFoundError(f"no build {ref[:128]}", subject=ref[:128])

    async def _log(self, ref: str) -> ProgressLog:
        with anyio.move_on_after(STATUS_SECONDS):
            while ref not in self._builds and ref not in self._unrecorded:
                await self._changed.wait()
            return self._builds[ref].log if ref in self._builds else self._unrecorded[ref]
        raise NotFoundError(f"no build {ref[:128]}", subject=ref[:128])

    async def status(self, ref: str) -> AsyncIterator[Sequence[Event]]:
        """What happens in a build, from its beginning to its end; that of an earlier build from the history.

        Raises `NotFoundError` if there is no such build within some seconds.
        """
        known = ref in self._builds or ref in self._unrecorded
        if not known and self._recorder is not None:
            try:
                async for events in self._recorder.replay(ref):
                    yield events
            except NotFoundError:
                pass
            else:
                return
        log = await self._log(ref)
        async for events in log.follow():
            yield events

    async def solve(self, wish: SolveWish) -> Mapping[str, str]:
        """Build; what the exporters tell the client. Cancelling the call ends the build and what only it wanted.

        Raises `AlreadyExistsError` if a build of this ref is under way; whatever building raises.
        """
        if wish.ref in self._builds:
            raise AlreadyExistsError(f"build {wish.ref} is under way already", subject=wish.ref)
        lease = await self._leases.create(labels={leases.BUILDS: wish.ref[:256]})
        build = Build(
            wish=wish, log=ProgressLog(), started=time.time_ns(), lease=lease.id, options=wish.options
        )
        response: Mapping[str, str] = {}
        error: BaseException | None = None
        self._builds[wish.ref] = build
        self._has_changed()
        try:
            if self._recorder is not None and not wish.internal:
                await self._recorder.began(build)
            response = await self._run(build)
        except BaseException as exc:
            error = exc
            raise
        finally:
            with anyio.CancelScope(shield=True):
                if build.bridge is not None:
                    build.bridge.end()
                build.log.close()
                try:
                    if self._recorder is not None and not wish.internal:
                        await self._recorder.ended(build, response, error)
                finally:
                    del self._builds[wish.ref]
                    self._remember(build)
                    self._has_changed()
                    await self._leases.delete(lease.id)
        return response

    def _remember(self, build: Build) -> None:
        if build.wish.internal or self._recorder is None:
            self._unrecorded[build.wish.ref] = build.log
            while len(self._unrecorded) > UNRECORDED:
                del self._unrecorded[next(iter(self._unrecorded))]
            self._has_changed()

    async def _run(self, build: Build) -> Mapping[str, str]:
        wish = build.wish
        if wish.session:
            build.session = await self._sessions.get(wish.session)
        exporters = [self._make_exporter(each, wish) for each in wish.exports]
        check_caches(wish)
        no_cache = wish.options.get("no-cache") == ""
        async with self._solver.open_job(
            wish.ref,
            session=build.session,
            progress=build.log,
            no_cache=no_cache,
            entitlements=wish.entitlements,
            policies=wish.policies,
        ) as job:
            for cache in imports_of(wish):
                await job.import_cache(cache.type, cache.attributes)
            result = in_order(await self._make_result(build, job))
            await evaluate_all(result)
            for finisher in self._finishers:
                result = await finisher.finish(result, build)
            build.result = result
            response = {
                key: value.decode("utf-8", "replace")
                for key, value in result.metadata.items()
                if key.startswith("frontend.")
            }
            for index, exporter in enumerate(exporters):
                context = ExportContext(
                    ref=wish.ref,
                    index=index,
                    session=build.session,
                    progress=build.log,
                    lease=build.lease,
                    inline_cache=_inline(wish, job, build.lease),
                )
                response |= await exporter.export(result, context)
            refs = [ref for ref in result.refs.values() if ref is not None]
            for cache in wish.cache_exports:
                if cache.type != INLINE:
                    response |= await job.export_cache(cache.type, cache.attributes, refs, lease=build.lease)
            return response

    async def _make_result(self, build: Build, job: Job) -> Result:
        wish = build.wish

        def gateway(options: Mapping[str, str], inputs: Mapping[str, Definition]) -> Gateway:
            build.options = {**wish.options, **options}
            return self._make_gateway(
                job, wish, options=options, inputs=inputs, session=build.session, progress=build.log
            )

        if wish.frontend:
            build.frontend = wish.frontend
            made = gateway(wish.options, wish.inputs)
            return await find_frontend(self._frontends, wish.frontend).build(made)
        if wish.definition is not None and wish.definition.ops:
            return Result(refs={"": await job.load(wish.definition)})

        def asked(frontend: str) -> None:
            build.frontend = frontend

        build.bridge = Bridge(gateway, self._frontends, wish.options, wish.inputs, asked=asked)
        self._has_changed()
        async with build.bridge.containers.serving():
            return await build.bridge.wait_returned()
