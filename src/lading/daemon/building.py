"""The builder, assembled: solver, sessions, control, its routes, and the edge that speaks BuildKit's protocol.

`daemon.builds` has it loaded when somebody builds.
"""

import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from lading.api.buildkit.errors import build_status
from lading.api.buildkit.server import BuildkitServer, FrontendServer
from lading.api.buildkit.worker import Worker
from lading.api.engine import build_cache, legacy_build, upgrades
from lading.api.engine.routing import Router
from lading.api.engine.system import DiskUsage
from lading.api.engine.version import ApiVersion
from lading.builder.attest.finisher import ProvenanceFinisher, record_of
from lading.builder.attest.sbom import SbomFinisher
from lading.builder.control import Control, Finisher, MakeExporter, MakeGateway, SolveWish
from lading.builder.exporters.factory import ExporterFactory
from lading.builder.external import ExternalFrontend
from lading.builder.frontend.frontend import DockerfileFrontend
from lading.builder.history import History
from lading.builder.legacy.build import LegacyBuilder
from lading.builder.model import Frontend, Gateway, Job, Solver
from lading.builder.ops.processes import Networking
from lading.builder.reports import Progress
from lading.builder.service import BUILD_CGROUP, BuildJob, BuildSolver, Environment
from lading.core import content, leases, metadata
from lading.core.metadata import Namespace
from lading.core.networks import BRIDGE, Networks, SandboxID, joined
from lading.core.session import Session
from lading.daemon import host
from lading.daemon.builds import Builder, Parts
from lading.formats.llb.definition import Definition
from lading.kit import aio
from lading.oci import platform as platforms
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.reference import Reference
from lading.sessions.registry import SessionRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledBuilder(Builder):
    """The builder with what it consists of."""

    server: BuildkitServer
    control: Control
    solver: Solver
    sessions: SessionRegistry
    history: History
    routes: Router

    @property
    @override
    def router(self) -> Router:
        return self.routes

    @override
    async def disk_usage(self, version: ApiVersion) -> DiskUsage:
        return await build_cache.disk_usage(self.solver, version)


class DefaultNetwork(Networking):
    """A place in the default bridge for each process of a build."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    @override
    def join(self, id: str, owner: str = "") -> AbstractAsyncContextManager[str]:
        return self._join(SandboxID(id), owner)

    @asynccontextmanager
    async def _join(self, id: SandboxID, owner: str) -> AsyncGenerator[str]:
        async with joined(self._networks, id, BRIDGE, owner=owner) as sandbox:
            yield sandbox.path


@asynccontextmanager
async def open_builder(parts: Parts) -> AsyncGenerator[Builder]:
    """The builder over the store's ports and the runtime."""
    rooms = await parts.rooms()
    solver = BuildSolver(
        Environment(
            content=parts.content,
            images=parts.images,
            leases=parts.leases,
            cache=parts.database.build_cache(parts.namespace),
            snapshotter=parts.snapshotter,
            documents=parts.transfer.documents,
            puller=parts.transfer.puller,
            registries=parts.registries,
            runtime=rooms.runtime,
            runtime_name=parts.runtime_name,
            state=parts.state,
            networking=DefaultNetwork(rooms.networks) if parts.bridged else None,
            remapping=rooms.remapping,
            cgroup_v2=host.cgroup_version() == "2",
            cgroup_parent=BUILD_CGROUP if parts.cgroups else "",
            disk=parts.disk,
            packed=parts.classic is None,
            collect=parts.collect,
        )
    )

    def exported(target: Descriptor, name: Reference | None) -> None:
        shown = name.familiar if name is not None else str(target.digest)
        parts.bus.publish("image", "create", target.digest, {"name": shown})

    async def runnable() -> Sequence[Platform]:
        return await aio.run(aio.DISK, lambda: solver.platforms)

    async with solver:
        builder = make_builder(
            database=parts.database,
            namespace=parts.namespace,
            blobs=parts.content,
            lease_manager=parts.leases,
            solver=solver,
            make_gateway=_gateway,
            make_exporter=ExporterFactory(
                parts.transfer,
                parts.content,
                host=platforms.host(),
                exported=exported,
                classic=parts.classic,
            ),
            finishers=[SbomFinisher(), ProvenanceFinisher()],
            worker=Worker(
                id=parts.id,
                hostname=socket.gethostname(),
                snapshotter=lambda: parts.snapshotter.name if parts.classic is None else "",
                platforms=runnable,
            ),
            state=parts.state / "legacy",
            chained=parts.classic is not None,
        )
        await builder.history.recover()
        async with builder.history.writing():
            yield builder


def _gateway(
    job: Job,
    wish: SolveWish,  # noqa: ARG001 - others may want it
    *,
    options: Mapping[str, str],
    inputs: Mapping[str, Definition],
    session: Session | None,  # noqa: ARG001 - the job has it
    progress: Progress,  # noqa: ARG001
) -> Gateway:
    assert isinstance(job, BuildJob)
    return job.gateway(options=options, inputs=inputs)


def make_builder(
    *,
    database: metadata.Database,
    namespace: Namespace,
    blobs: content.Store,
    lease_manager: leases.Manager,
    solver: Solver,
    frontends: Mapping[str, Frontend] | None = None,
    make_gateway: MakeGateway,
    make_exporter: MakeExporter,
    finishers: Sequence[Finisher] = (),
    worker: Worker,
    state: Path,
    chained: bool = False,
) -> AssembledBuilder:
    """The builder over any solver, with ``frontends`` instead of its own.

    ``chained`` is said of the classic store, which keeps the image of every old-style step.
    """
    sessions = SessionRegistry()
    programs = FrontendServer(worker)
    known: dict[str, Frontend] = {}
    external = ExternalFrontend(frontends=known, serve=programs.serve, workers=programs.workers)
    known |= {"dockerfile.v0": DockerfileFrontend(external), "gateway.v0": external} | dict(frontends or {})
    history = History(
        store=database.builds(namespace),
        blobs=blobs,
        lease_manager=lease_manager,
        failure=lambda error: build_status(error).SerializeToString(),
        provenance=record_of,
    )
    control = Control(
        solver=solver,
        sessions=sessions,
        lease_manager=lease_manager,
        frontends=known,
        make_gateway=make_gateway,
        make_exporter=make_exporter,
        finishers=finishers,
        recorder=history,
    )
    server = BuildkitServer(
        control=control,
        history=history,
        worker=worker,
        blobs=blobs,
        serve_session=sessions.serve,
        check_session=sessions.check,
    )
    legacy = LegacyBuilder(
        solver=solver,
        lease_manager=lease_manager,
        make_gateway=make_gateway,
        make_exporter=make_exporter,
        state=state,
        chained=chained,
    )
    return AssembledBuilder(
        server=server,
        control=control,
        solver=solver,
        sessions=sessions,
        history=history,
        routes=_routes(server, solver, legacy),
    )


def _routes(server: BuildkitServer, solver: Solver, legacy: LegacyBuilder) -> Router:
    router = Router()
    legacy_build.add_routes(router, legacy)
    build_cache.add_routes(router, solver)
    upgrades.add_routes(
        router,
        grpc=server.serve_grpc,
        session=server.serve_session,
        check_session=server.check_session,
    )
    return router
