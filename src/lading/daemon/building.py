"""The builder, assembled: solver, sessions, control, and the edge that speaks BuildKit's protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lading.api.buildkit.errors import status_of
from lading.api.buildkit.server import BuildkitServer
from lading.api.buildkit.worker import Worker
from lading.builder.control import Control, Finisher, MakeExporter, MakeGateway
from lading.builder.history import History
from lading.builder.model import Frontend, Solver
from lading.core import content, leases, metadata
from lading.core.metadata import Namespace
from lading.sessions.registry import SessionRegistry


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """What the daemon needs of the builder."""

    server: BuildkitServer
    control: Control
    solver: Solver
    sessions: SessionRegistry


def make_builder(
    *,
    database: metadata.Database,
    namespace: Namespace,
    blobs: content.Store,
    lease_manager: leases.Manager,
    solver: Solver,
    frontends: Mapping[str, Frontend],
    make_gateway: MakeGateway,
    make_exporter: MakeExporter,
    finishers: Sequence[Finisher] = (),
    worker: Worker,
) -> Builder:
    """The builder over the store's ports."""
    sessions = SessionRegistry()
    history = History(
        store=database.builds(namespace),
        blobs=blobs,
        lease_manager=lease_manager,
        failure=lambda error: status_of(error).SerializeToString(),
    )
    control = Control(
        solver=solver,
        sessions=sessions,
        lease_manager=lease_manager,
        frontends=frontends,
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
    return Builder(server=server, control=control, solver=solver, sessions=sessions)
