"""The builder's connections: gRPC that clients call, and sessions on which we call them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog
from typing_extensions import override

from lading.api.buildkit.blobs import BlobService
from lading.api.buildkit.bridge import SERVICE as BRIDGE
from lading.api.buildkit.bridge import BridgeService, of_build
from lading.api.buildkit.control import SERVICE as CONTROL
from lading.api.buildkit.control import ControlService
from lading.api.buildkit.errors import build_error, grpc_error
from lading.api.buildkit.worker import Worker
from lading.builder.bridge import Bridge
from lading.builder.control import Control
from lading.builder.history import History
from lading.core import content
from lading.core.session import Offer
from lading.errors import CancelledError, LadingError
from lading.formats.buildkit._pb.common_pb2 import BytesMessage
from lading.formats.buildkit._pb.session_pb2 import HealthCheckRequest, HealthCheckResponse
from lading.formats.llb.decode import platform_from
from lading.kit.grpc.connection import Transport
from lading.kit.grpc.server import Handler, Info, ServerCall, serve, unary
from lading.kit.grpc.status import GrpcError

_log: Final = structlog.get_logger(__name__)
_PREFIX: Final = "x-docker-expose-session-"
_SERVING: Final = 1
_PIECE: Final = 1 << 20

Headers = Sequence[tuple[str, str]]
"""Names in lower case; a name may stand several times."""
ServeSession = Callable[[Transport, Offer], Awaitable[None]]
"""Keeps a session over a connection until it ends."""


class BuildkitServer:
    """Serves connections, however they came."""

    def __init__(
        self,
        *,
        control: Control,
        history: History,
        worker: Worker,
        blobs: content.Store,
        serve_session: ServeSession,
        check_session: Callable[[Offer], None],
    ) -> None:
        self._serve_session = serve_session
        self._check_session = check_session
        self._handlers: dict[str, Handler] = {
            **ControlService(control, history, worker).handlers(),
            **BridgeService(of_build(control), worker).handlers(),
            **BlobService(blobs).handlers(),
            f"{CONTROL}/Session": self._session_call,
            "/grpc.health.v1.Health/Check": unary(HealthCheckRequest, _health),
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export": _take_traces,
        }

    async def serve_grpc(self, transport: Transport) -> None:
        """Serve one client until it leaves; what it had under way is then cancelled."""
        await serve(transport, self._handlers, failed=_failed)

    def check_session(self, headers: Headers) -> None:
        """Whether a session with these headers can be opened. Raises `InvalidArgumentError`, `AlreadyExistsError`."""
        self._check_session(offer_of(headers))

    async def serve_session(self, transport: Transport, headers: Headers) -> None:
        """Keep the session of one client until it leaves."""
        await self._serve_session(transport, offer_of(headers))

    async def _session_call(self, call: ServerCall) -> None:
        """A session inside a call: messages of bytes that are an HTTP/2 connection in which we are the client."""
        offer = offer_of(call.metadata)
        self._check_session(offer)
        call.begin()
        await self._serve_session(_Tunnel(call), offer)


class _Tunnel(Transport):
    """A byte stream of ``BytesMessage`` on a call."""

    def __init__(self, call: ServerCall) -> None:
        self._call = call

    @override
    async def read(self) -> bytes:
        while (message := await self._call.receive()) is not None:
            if data := BytesMessage.FromString(message).data:
                return data
        return b""

    @override
    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            try:
                await self._call.send(BytesMessage(data=data[start : start + _PIECE]).SerializeToString())
            except GrpcError as exc:
                raise CancelledError("the client closed the session") from exc


class FrontendServer:
    """Serves the bridge to the programs of frontends."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def serve(self, transport: Transport, bridge: Bridge) -> None:
        """Serve one program until it ends."""

        async def find(_: Info) -> Bridge:
            return bridge

        handlers = {
            **BridgeService(find, self._worker).handlers(),
            "/grpc.health.v1.Health/Check": unary(HealthCheckRequest, _health),
        }
        await serve(transport, handlers, failed=_failed)

    async def workers(self) -> bytes:
        """What programs are told of the worker, as BuildKit writes it."""
        record = await self._worker.record()
        platforms = [platform_from(each) for each in record.platforms]
        return msgspec.json.encode(
            [{"ID": record.id, "Labels": dict(record.labels), "Platforms": platforms, "GCPolicy": None}]
        )


def offer_of(headers: Headers) -> Offer:
    """What a client offers, by its headers or metadata."""
    fields = [(name.removeprefix(_PREFIX), value) for name, value in headers if name.startswith(_PREFIX)]
    values = dict(fields)
    return Offer(
        id=values.get("uuid", ""),
        shared_key=values.get("sharedkey", ""),
        methods=[value for name, value in fields if name == "grpc-method"],
    )


def _failed(error: Exception, method: str) -> GrpcError:
    if isinstance(error, LadingError):
        _log.debug("call_refused", method=method, error=str(error))
    else:
        _log.error("call_failed", method=method, exc_info=error)
    building = method == f"{CONTROL}/Solve" or method.startswith(f"{BRIDGE}/")
    return build_error(error) if building else grpc_error(error)


async def _health(request: HealthCheckRequest, info: Info) -> HealthCheckResponse:
    del request, info
    return HealthCheckResponse(status=_SERVING)


async def _take_traces(call: ServerCall) -> None:
    """Clients send their spans; nobody here keeps them."""
    await call.only()
    await call.send(b"")
