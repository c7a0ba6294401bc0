"""A builder that does nothing, at once: what a build costs the client alone.

It answers every call that ``docker build`` makes of a daemon, as for an image that is made already, and asks the client for nothing: no
file of the context is looked at. ``python bench/instant.py SOCKET`` serves until it is killed.
"""

import asyncio
import contextlib
import functools
import json
import pathlib
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Final

import anyio
from typing_extensions import override

from lading.api.buildkit.worker import Worker, frontend_caps, llb_caps
from lading.formats.buildkit._pb import control_pb2 as control
from lading.formats.buildkit._pb import gateway_pb2 as gateway
from lading.kit.grpc.connection import Transport, open_connection
from lading.kit.grpc.server import Handlers, Info, serve, streaming, unary
from lading.kit.grpc.status import Code, GrpcError
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform

_CONTROL: Final = "/moby.buildkit.v1.Control"
_BRIDGE: Final = "/moby.buildkit.v1.frontend.LLBBridge"
_DIGEST: Final = f"sha256:{'0' * 64}"
_HEAD: Final = (
    "HTTP/1.1 200 OK",
    "Api-Version: 1.51",
    "Builder-Version: 2",
    "Docker-Experimental: false",
    "Ostype: linux",
    "Server: Docker/28.5.2 (linux)",
    "Swarm: inactive",
)
_UPGRADED: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
_DOCUMENTS: Final = {
    "info": {
        "ID": "instant",
        "Name": "instant",
        "OSType": "linux",
        "Architecture": "x86_64",
        "Driver": "overlayfs",
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "ServerVersion": "28.5.2",
    },
    "version": {
        "Version": "28.5.2",
        "ApiVersion": "1.51",
        "MinAPIVersion": "1.24",
        "Os": "linux",
        "Arch": "amd64",
    },
}


class Builds:
    """The builds that wait for their client's word, by their ref."""

    def __init__(self) -> None:
        self._worker = Worker(
            id="instant", hostname="instant", snapshotter=lambda: "overlayfs", platforms=_platforms
        )
        self._over: dict[str, anyio.Event] = {}

    def handlers(self) -> Handlers:
        return {
            f"{_CONTROL}/ListWorkers": unary(control.ListWorkersRequest, self._workers),
            f"{_CONTROL}/Info": unary(control.InfoRequest, self._info),
            f"{_CONTROL}/Solve": unary(control.SolveRequest, self._build),
            f"{_CONTROL}/Status": streaming(control.StatusRequest, self._status),
            f"{_BRIDGE}/Ping": unary(gateway.PingRequest, self._ping),
            f"{_BRIDGE}/Solve": unary(gateway.BridgeSolveRequest, self._solve),
            f"{_BRIDGE}/Return": unary(gateway.ReturnRequest, self._return),
        }

    def _end(self, ref: str) -> anyio.Event:
        return self._over.setdefault(ref, anyio.Event())

    async def _workers(self, _: control.ListWorkersRequest, __: Info) -> control.ListWorkersResponse:
        return control.ListWorkersResponse(record=[await self._worker.record()])

    async def _info(self, _: control.InfoRequest, __: Info) -> control.InfoResponse:
        return control.InfoResponse(buildkit_version=(await self._worker.record()).buildkit_version)

    async def _build(self, request: control.SolveRequest, _: Info) -> control.SolveResponse:
        await self._end(request.ref).wait()
        return control.SolveResponse(exporter_response={"containerimage.digest": _DIGEST})

    async def _status(self, request: control.StatusRequest, _: Info) -> AsyncIterator[control.StatusResponse]:
        await self._end(request.ref).wait()
        yield control.StatusResponse(vertexes=[control.Vertex(digest=_DIGEST, name="exporting to image")])

    async def _ping(self, _: gateway.PingRequest, __: Info) -> gateway.PongResponse:
        return gateway.PongResponse(
            frontend_caps=frontend_caps(), llb_caps=llb_caps(), workers=[await self._worker.record()]
        )

    async def _solve(self, request: gateway.BridgeSolveRequest, _: Info) -> gateway.BridgeSolveResponse:
        if request.frontend_opt.get("requestid"):  # the checks of a Dockerfile without a fault
            told = {"result.json": b'{"sources":[]}', "result.txt": b""}
            return gateway.BridgeSolveResponse(result=gateway.BridgeResult(ref=gateway.Ref(), metadata=told))
        return gateway.BridgeSolveResponse(result=gateway.BridgeResult(ref=gateway.Ref(id="one")))

    async def _return(self, _: gateway.ReturnRequest, info: Info) -> gateway.ReturnResponse:
        self._end(info.value("buildkit-controlapi-buildid")).set()
        return gateway.ReturnResponse()


async def _platforms() -> Sequence[Platform]:
    return [platforms.host()]


class _Streams(Transport):
    """What was an HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @override
    async def read(self) -> bytes:
        return await self._reader.read(1 << 16)

    @override
    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


async def _connected(builds: Builds, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: plain requests, until one of them is for HTTP/2."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            method, path, _ = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split(" ", 2)
            if method == "POST":
                writer.write(_UPGRADED)
                await _upgraded(builds, path, _Streams(reader, writer))
                break
            document = _DOCUMENTS.get(path.rpartition("/")[2])
            body = b"OK" if document is None else json.dumps(document).encode()
            kind = "text/plain" if document is None else "application/json"
            head = "\r\n".join((*_HEAD, f"Content-Type: {kind}", f"Content-Length: {len(body)}", "", ""))
            writer.write(head.encode() + (body if method == "GET" else b""))
    writer.close()


async def _upgraded(builds: Builds, path: str, streams: _Streams) -> None:
    if path.endswith("/session"):  # here we would be the client
        async with open_connection(streams, client=True, limit=1 << 24) as connection:
            await connection.ended.wait()
    else:
        await serve(streams, builds.handlers(), failed=lambda error, _: GrpcError(Code.INTERNAL, str(error)))


async def main(path: pathlib.Path) -> None:
    server = await asyncio.start_unix_server(functools.partial(_connected, Builds()), path)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(pathlib.Path(sys.argv[1])))
