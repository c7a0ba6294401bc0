"""The solver as the builder uses it: jobs over the scheduler, refs over trees, the build cache's housekeeping."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Self

import anyio
from typing_extensions import override

from lading.builder.caching.exporting import CacheExporter
from lading.builder.caching.service import SharedCaches
from lading.builder.gateway import BuildGateway, BuildTools
from lading.builder.housekeeping import Housekeeping
from lading.builder.interactive import Container, ContainerWish
from lading.builder.model import Gateway, Job, Program, PruneWish, Solver, Talk, UsageRecord
from lading.builder.ops import agents, layers
from lading.builder.ops.contents import Contents
from lading.builder.ops.emulation import Emulation
from lading.builder.ops.factory import World, node
from lading.builder.ops.images import ImageSources
from lading.builder.ops.layers import Layers
from lading.builder.ops.mounting import ExecTools, Mounting
from lading.builder.ops.mutables import Mutables
from lading.builder.ops.processes import Networking, Process, Processes
from lading.builder.ops.records import Records
from lading.builder.ops.sandbox import Sandbox
from lading.builder.ops.trees import DiffingSnapshotter, Tree, Trees
from lading.builder.refs import SolvedRef
from lading.builder.reports import Progress
from lading.builder.results import Ref
from lading.builder.solver import live
from lading.builder.solver.live import Edge, Solved
from lading.builder.solver.scheduler import Scheduler
from lading.containers.remapping import Remapping
from lading.containers.users import User
from lading.core import content, images, leases
from lading.core.buildcache import BuildCache
from lading.core.leases import BUILDS, LeaseID
from lading.core.remotes import Registries
from lading.core.runtime import Runtime
from lading.core.session import Session
from lading.errors import LadingError, NotFoundError
from lading.formats.buildkit import sourcepolicy
from lading.formats.buildkit.sourcepolicy import Policy, Source
from lading.formats.llb import graph, ops
from lading.formats.llb.definition import Definition
from lading.formats.llb.rewrite import with_sources
from lading.kit import aio
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform
from lading.transfer.documents import Documents
from lading.transfer.pull import Puller

BUILD_CGROUP: Final = "/lading/build"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Ports and places. ``state`` (in the exec-root) means nothing after a reboot."""

    content: content.Store
    images: images.Store
    leases: leases.Manager
    cache: BuildCache
    snapshotter: DiffingSnapshotter
    documents: Documents
    puller: Puller
    registries: Registries
    runtime: Runtime
    runtime_name: str
    state: Path
    networking: Networking | None = None
    remapping: Remapping | None = None
    """The user namespace of processes."""
    cgroup_v2: bool = True
    cgroup_parent: str = BUILD_CGROUP
    """Empty: there are no cgroups to be had."""
    host: Platform | None = None
    disk: Path | None = None
    """Where snapshots are; with it, old records go by themselves when the disk fills (`pruning.default_policy`)."""
    packed: bool = True
    """Whether the store keeps layers as blobs; the classic one does not."""
    collect: Callable[[], None] = lambda: None
    """Called when something was let go of."""


class BuildSolver(Solver):
    """`Solver` of the daemon. An async context manager."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._host = env.host or platforms.host()
        self._lease = LeaseID(f"builds-{secrets.token_hex(8)}")
        self._jobs = 0
        self._lock = anyio.Lock()
        trees = Trees(env.snapshotter, env.cache, env.state / "mounts", lambda: self._lease)
        self.trees = trees
        self.records = Records(env.cache, trees)
        self.layers = Layers(trees, env.cache, env.content, env.leases, self.records)
        self.mutables = Mutables(trees, env.cache, self.records.used)
        self.emulation = Emulation(host=self._host)
        self.images = ImageSources(
            store=env.content,
            records=env.images,
            documents=env.documents,
            puller=env.puller,
            registries=env.registries,
            leases=env.leases,
            cache=env.cache,
            snapshotter=env.snapshotter.name,
        )
        contents = Contents(trees, env.cache)
        self._processes = Processes(
            runtime=env.runtime,
            runtime_name=env.runtime_name,
            # With a user namespace the root of processes could not pass our directories.
            foreground=None if env.remapping else env.runtime.foreground(env.runtime_name),
            state=env.state / "processes",
            emulation=self.emulation,
            networking=env.networking,
            remapping=env.remapping,
            cgroup_v2=env.cgroup_v2,
            cgroup_parent=env.cgroup_parent,
        )
        tools = ExecTools(
            trees=trees,
            contents=contents,
            mutables=self.mutables,
            processes=self._processes,
            state=env.state / "private",
        )
        self._world = World(
            trees=trees,
            contents=contents,
            mutables=self.mutables,
            images=self.images,
            tools=tools,
            host=self._host,
            urls={},
        )
        self._scheduler: Scheduler[Tree] = Scheduler(self.records)
        self.caches = SharedCaches(
            exporter=CacheExporter(env.cache, self.layers, self.records),
            store=env.content,
            cache=env.cache,
            snapshotter=env.snapshotter.name,
            puller=env.puller,
            registries=env.registries,
            packed=env.packed,
        )
        self._house = Housekeeping(
            cache=env.cache,
            snapshotter=env.snapshotter,
            in_use=lambda: self._scheduler.in_use() | self.mutables.in_use() | self.records.noted,
            disk=env.disk,
            collect=env.collect,
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._recover()
        group = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(group.cancel_scope.cancel)
        await self._stack.enter_async_context(self._scheduler)
        if self._env.disk is not None:
            group.start_soon(self._house.keep, self._env.disk)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _recover(self) -> None:
        """Clean up what builds of an earlier daemon left."""
        await aio.run(aio.DISK, self.trees.clean)
        await aio.run(aio.DISK, agents.forget_private, self._env.state / "private")
        await self._processes.recover()
        for lease in await self._env.leases.list():
            if BUILDS in lease.labels:
                with suppress(NotFoundError):
                    await layers.abandon(self._env.content, self._env.leases, lease.id)
                    await self._env.leases.delete(lease.id)

    @property
    def platforms(self) -> list[Platform]:
        """What can be run here, the machine's own first. Blocking."""
        return self.emulation.platforms()

    # Builds.

    @override
    def open_job(
        self,
        ref: str,
        *,
        session: Session | None,
        progress: Progress,
        no_cache: bool = False,
        entitlements: frozenset[str] = frozenset(),
        policies: Sequence[Policy] = (),
    ) -> AbstractAsyncContextManager["BuildJob"]:
        return self._open_job(session, progress, no_cache, entitlements, policies)

    @asynccontextmanager
    async def _open_job(
        self,
        session: Session | None,
        progress: Progress,
        no_cache: bool,
        entitlements: frozenset[str],
        policies: Sequence[Policy],
    ) -> "AsyncGenerator[BuildJob]":
        await self._begin()
        try:
            async with self._scheduler.open_job(
                progress=progress, session=session, no_cache=no_cache, entitlements=entitlements
            ) as job:
                yield BuildJob(self, job, policies)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()

    async def _begin(self) -> None:
        """The first build makes the lease that holds what builds make."""
        async with self._lock:
            if not self._jobs:
                self._lease = LeaseID(f"builds-{secrets.token_hex(8)}")
                await self._env.leases.create(self._lease, labels={BUILDS: "builds under way"})
            self._jobs += 1

    async def _end(self) -> None:
        await self.records.flush()
        async with self._lock:
            self._jobs -= 1
            if not self._jobs:
                with suppress(NotFoundError):
                    await self._env.leases.delete(self._lease)
                self._house.builds_ended()

    async def load(self, job: live.Job[Tree], definition: Definition) -> SolvedRef:
        """A ref of a build for a graph; see `Job.load`."""
        found = graph.load(definition)
        if found.result is None:
            return SolvedRef(definition, None, self.trees, self.layers)
        nodes = [node(vertex, self._world) for vertex in found.vertices.values()]
        wanted = Edge(vertex=found.result.digest, index=found.result.index)
        edge = self._scheduler.add(job, nodes, wanted)

        async def solve() -> Solved[Tree]:
            return await self._scheduler.solve(job, edge)

        return SolvedRef(definition, solve, self.trees, self.layers)

    async def converse(self, program: Program, talk: Talk, log: Callable[[bytes], None]) -> int:
        """See `Gateway.converse`."""
        assert isinstance(program.ref, SolvedRef)
        async with self.trees.active(await program.ref.tree()) as active:
            process = Process(
                meta=ops.Meta(args=tuple(program.args), cwd=program.cwd),
                env=program.env,
                user=User(uid=0, gid=0, groups=(0,), home="/root"),
                rootfs=active.mounts,
                network=ops.NetMode.UNSET if program.network else ops.NetMode.NONE,
                platform=program.platform,
            )
            async with AsyncExitStack() as stack:
                room = None
                if self._processes.foreground is not None:
                    room = await stack.enter_async_context(self.trees.room(active.mounts))
                return await self._processes.run(process, lambda _, data: log(data), talk=talk, room=room)

    @asynccontextmanager
    async def open_container(self, job: live.Job[Tree], wish: ContainerWish) -> "AsyncGenerator[Container]":
        """See `Gateway.open_container`."""
        inputs: list[Tree] = []
        mounts: list[ops.Mount] = []
        for ref, mount in wish.mounts:
            if isinstance(ref, SolvedRef):
                inputs.append(await ref.tree())
            mounts.append(replace(mount, input=len(inputs) - 1 if ref is not None else None, output=None))
        tools = self._world.tools
        async with AsyncExitStack() as stack:
            made = await Mounting(mounts, "container", tools, job).prepare(stack, inputs)
            yield Sandbox(tools, made, wish, job, host=self._host, granted=job.entitlements)

    # The cache.

    @override
    async def disk_usage(self) -> Sequence[UsageRecord]:
        return await self._house.disk_usage()

    @override
    def prune(self, wish: PruneWish) -> AsyncIterator[UsageRecord]:
        return self._house.prune(wish)


class BuildJob(Job):
    """One build in the solver."""

    def __init__(self, solver: BuildSolver, job: live.Job[Tree], policies: Sequence[Policy]) -> None:
        self._policies = policies
        self._solver = solver
        self._job = job
        self._imported: list[tuple[str, Mapping[str, str]]] = []

    @property
    def session(self) -> Session | None:
        """Its client."""
        return self._job.session

    @override
    async def load(self, definition: Definition) -> Ref:
        return await self._load(definition, self._policies)

    async def _load(self, definition: Definition, policies: Sequence[Policy]) -> Ref:
        if policies:
            definition = with_sources(definition, partial(_used, policies))
        return await self._solver.load(self._job, definition)

    @override
    async def import_cache(self, kind: str, attributes: Mapping[str, str]) -> None:
        """Look into a cache from now on; see `SharedCaches.open`."""
        solver, job = self._solver, self._job
        if (kind, attributes) in self._imported:
            return  # clients say it twice: in the request, and as an attribute of the frontend
        self._imported.append((kind, attributes))
        job.caches += await solver.caches.open(
            kind,
            attributes,
            session=job.session,
            progress=job.progress,
            lease=solver.trees.lease,
        )

    @override
    async def export_cache(
        self, kind: str, attributes: Mapping[str, str], refs: Sequence[Ref], *, lease: LeaseID
    ) -> dict[str, str]:
        """Write the cache of refs of this build; see `SharedCaches.export`."""
        job = self._job
        return await self._solver.caches.export(
            kind,
            attributes,
            await _solved(refs),
            session=job.session,
            progress=job.progress,
            lease=lease,
        )

    @override
    async def inline_cache(
        self, attributes: Mapping[str, str], ref: Ref, layers: Sequence[str], *, lease: LeaseID
    ) -> bytes | None:
        """The cache of a ref for the config of an image with these layer blobs; see `SharedCaches.inline`."""
        return await self._solver.caches.inline(
            attributes,
            await _solved([ref]),
            layers,
            progress=self._job.progress,
            lease=lease,
        )

    def gateway(self, *, options: Mapping[str, str], inputs: Mapping[str, Definition]) -> Gateway:
        """What a frontend of this build may ask."""
        solver, job = self._solver, self._job
        tools = BuildTools(
            load=self._load,
            session=job.session,
            progress=job.progress,
            images=solver.images,
            platforms=solver.platforms,
            lease=solver.trees.lease,
            import_cache=self.import_cache,
            converse=solver.converse,
            open_container=partial(solver.open_container, job),
        )
        return BuildGateway(tools, options=options, inputs=inputs, policies=self._policies)


def _used(
    policies: Sequence[Policy], identifier: str, attributes: dict[str, str]
) -> tuple[str, dict[str, str]]:
    """What a source becomes by policies."""
    try:
        found = sourcepolicy.evaluate(policies, Source(identifier=identifier, attributes=attributes))
    except LadingError as exc:
        raise type(exc)(f"error evaluating the source policy: {exc.message}", subject=identifier) from exc
    return found.identifier, dict(found.attributes)


async def _solved(refs: Sequence[Ref]) -> list[Solved[Tree]]:
    return [await ref.solved() for ref in refs if isinstance(ref, SolvedRef)]
