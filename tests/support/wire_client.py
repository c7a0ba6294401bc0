"""A `Client` of the session suite behind gRPC, as buildx serves it: what the adapter under test calls."""

import fnmatch
import os
import urllib.parse
from collections.abc import Sequence

from lading.core.session import Offer, TreePart
from lading.formats.buildkit._pb import content_pb2, session_pb2
from lading.formats.buildkit._pb.common_pb2 import BytesMessage
from lading.formats.buildkit._pb.fsutil_pb2 import Packet
from lading.kit.grpc.connection import Transport
from lading.kit.grpc.server import Handlers, Info, ServerCall, serve, unary
from lading.kit.grpc.status import Code, GrpcError
from lading.oci.digest import Digest
from lading.sessions.receiving import Receiver
from lading.sessions.sending import Sender
from lading.testing.sessions import Client


class WireClient:
    """Serves a `Client`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.handlers: Handlers = {
            "/moby.filesync.v1.FileSync/DiffCopy": self._sync,
            "/moby.filesync.v1.FileSend/DiffCopy": self._take,
            "/moby.filesync.v1.Auth/Credentials": unary(session_pb2.CredentialsRequest, self._credentials),
            "/moby.buildkit.secrets.v1.Secrets/GetSecret": unary(session_pb2.GetSecretRequest, self._secret),
            "/moby.sshforward.v1.SSH/CheckAgent": unary(session_pb2.CheckAgentRequest, self._check_agent),
            "/moby.sshforward.v1.SSH/ForwardAgent": self._forward,
            "/moby.upload.v1.Upload/Pull": self._upload,
            "/grpc.health.v1.Health/Check": unary(session_pb2.HealthCheckRequest, self._health),
            "/containerd.services.content.v1.Content/Info": unary(content_pb2.BlobInfoRequest, self._info),
            "/containerd.services.content.v1.Content/Read": self._read,
            "/containerd.services.content.v1.Content/Write": self._write,
        }

    def offer(self, id: str) -> Offer:
        """What this client says when it connects."""
        return Offer(id=id, shared_key="context:node", methods=tuple(self.handlers))

    async def run(self, transport: Transport) -> None:
        """Serve one connection."""
        await serve(transport, self.handlers, failed=lambda error, _: GrpcError(Code.UNKNOWN, str(error)))

    async def _sync(self, call: ServerCall) -> None:
        root = self._client.directories.get(call.value("dir-name"))
        if root is None:
            raise GrpcError(Code.NOT_FOUND, f"no access allowed to dir {call.value('dir-name')!r}")
        excluded = _values(call, "exclude-patterns")
        followed = _values(call, "followpaths")
        sender = Sender([TreePart(root=str(root))])
        places: list[int] = []
        for number, packet in enumerate(sender.walk()):
            top = packet.stat.path.partition("/")[0]
            left_out = any(fnmatch.fnmatch(top, pattern) for pattern in excluded)
            if packet.HasField("stat") and (left_out or (followed and top not in followed)):
                continue
            if packet.stat.linkname and followed and packet.HasField("stat"):
                packet.stat.linkname = ""  # what it links to is not sent
            if packet.HasField("stat"):
                packet.stat.uid = packet.stat.gid = 0
            places.append(number)
            await call.send(packet.SerializeToString())
        while (raw := await call.receive()) is not None:
            packet = Packet.FromString(raw)
            if packet.type == Packet.FIN:
                await call.send(raw)
                return
            source = sender.open(places[packet.id])
            if isinstance(source, int):
                with os.fdopen(source, "rb") as file:
                    while data := file.read(32 << 10):
                        await call.send(Packet(type=Packet.DATA, id=packet.id, data=data).SerializeToString())
            await call.send(Packet(type=Packet.DATA, id=packet.id).SerializeToString())

    async def _take(self, call: ServerCall) -> None:
        index = int(call.value("buildkit-attachable-exporter-id"))
        first = await call.receive()
        if first is not None and Packet.FromString(first).HasField("stat"):
            await self._take_tree(call, first)
            return
        parts = bytearray()
        while first is not None:
            parts += BytesMessage.FromString(first).data
            first = await call.receive()
        prefix = "exporter-md-"
        self._client.output_metadata = {
            key.removeprefix(prefix): value for key, value in call.metadata if key.startswith(prefix)
        }
        self._client.outputs[index] = bytes(parts)

    async def _take_tree(self, call: ServerCall, first: bytes) -> None:
        self._client.received.mkdir(exist_ok=True)
        receiver = Receiver(str(self._client.received))
        packet: bytes | None = first
        try:
            while packet is not None:
                done = receiver.take([packet])
                for id in done.requests:
                    await call.send(Packet(type=Packet.REQ, id=id).SerializeToString())
                if done.complete and not done.finished:
                    await call.send(Packet(type=Packet.FIN).SerializeToString())
                packet = await call.receive()
        finally:
            receiver.close()

    async def _credentials(
        self, request: session_pb2.CredentialsRequest, info: Info
    ) -> session_pb2.CredentialsResponse:
        found = self._client.credentials.get(request.host)
        if found is None:
            return session_pb2.CredentialsResponse()
        return session_pb2.CredentialsResponse(
            username=found.username, secret=found.password or found.identity_token
        )

    async def _secret(
        self, request: session_pb2.GetSecretRequest, info: Info
    ) -> session_pb2.GetSecretResponse:
        if request.id not in self._client.secrets:
            raise GrpcError(Code.NOT_FOUND, f"secret {request.id}: not found")
        return session_pb2.GetSecretResponse(data=self._client.secrets[request.id])

    async def _check_agent(
        self, request: session_pb2.CheckAgentRequest, info: Info
    ) -> session_pb2.CheckAgentResponse:
        if request.id not in self._client.agents:
            raise GrpcError(Code.NOT_FOUND, f"unset ssh forward key {request.id}")
        return session_pb2.CheckAgentResponse()

    async def _forward(self, call: ServerCall) -> None:
        answer = self._client.agents[call.value("buildkit.ssh.id")]
        while (raw := await call.receive()) is not None:
            await call.send(BytesMessage(data=answer(BytesMessage.FromString(raw).data)).SerializeToString())

    async def _upload(self, call: ServerCall) -> None:
        data = self._client.uploads.get(call.value("urlpath"))
        if data is None:
            raise GrpcError(Code.NOT_FOUND, "no such upload")
        for start in range(0, len(data), 100_000):
            await call.send(BytesMessage(data=data[start : start + 100_000]).SerializeToString())

    async def _health(
        self, request: session_pb2.HealthCheckRequest, info: Info
    ) -> session_pb2.HealthCheckResponse:
        return session_pb2.HealthCheckResponse(status=1)

    def _store(self, call: ServerCall) -> dict[Digest, bytes]:
        return self._client.blobs[call.value("buildkit-attachable-store-id")]

    async def _info(self, request: content_pb2.BlobInfoRequest, info: Info) -> content_pb2.BlobInfoResponse:
        data = self._store(info.call).get(Digest(request.digest))
        if data is None:
            raise GrpcError(Code.NOT_FOUND, f"content {request.digest}: not found")
        return content_pb2.BlobInfoResponse(info=content_pb2.BlobInfo(digest=request.digest, size=len(data)))

    async def _read(self, call: ServerCall) -> None:
        request = content_pb2.ReadContentRequest.FromString(await call.only())
        data = self._store(call)[Digest(request.digest)]
        for start in range(request.offset, len(data), 1 << 20):
            answer = content_pb2.ReadContentResponse(offset=start, data=data[start : start + (1 << 20)])
            await call.send(answer.SerializeToString())

    async def _write(self, call: ServerCall) -> None:
        parts = bytearray()
        while (raw := await call.receive()) is not None:
            request = content_pb2.WriteContentRequest.FromString(raw)
            if Digest(request.expected) in self._store(call):
                raise GrpcError(Code.ALREADY_EXISTS, f"content {request.expected}: already exists")
            if request.offset != len(parts):
                raise GrpcError(Code.OUT_OF_RANGE, "the offset is wrong")
            parts += request.data
            if request.action == content_pb2.WriteContentRequest.COMMIT:
                if Digest.of(parts) != request.expected:
                    raise GrpcError(Code.FAILED_PRECONDITION, "the digest is wrong")
                self._store(call)[Digest(request.expected)] = bytes(parts)
            answer = content_pb2.WriteContentResponse(action=request.action, offset=len(parts))
            await call.send(answer.SerializeToString())


def _values(call: ServerCall, key: str) -> Sequence[str]:
    values = [value for name, value in call.metadata if name == key]
    return [urllib.parse.unquote_plus(value) for value in values] if call.value(f"{key}-encoded") else values
