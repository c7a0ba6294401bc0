"""One session: each service of the client as calls of `lading.core.session.Session`."""

import itertools
import os
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final

import anyio
from typing_extensions import Buffer, override

from lading.core.remotes import Credentials
from lading.core.session import ClientContent, Session, Stream, Synced, SyncMemory, SyncWish, TreePart
from lading.errors import UnsupportedError
from lading.formats.buildkit._pb.common_pb2 import BytesMessage
from lading.formats.buildkit._pb.fsutil_pb2 import Packet
from lading.formats.buildkit._pb.session_pb2 import (
    CheckAgentRequest,
    CredentialsRequest,
    CredentialsResponse,
    GetSecretRequest,
    GetSecretResponse,
    HealthCheckRequest,
)
from lading.kit import aio, fs
from lading.kit.grpc.client import Channel, ClientCall
from lading.kit.grpc.status import Code, GrpcError, Metadata
from lading.kit.tasks import task_group
from lading.sessions.content import RemoteContent
from lading.sessions.errors import error_of, translated
from lading.sessions.receiving import Receiver
from lading.sessions.sending import PIECE, Sender

_SYNC: Final = "/moby.filesync.v1.FileSync/DiffCopy"
_SEND: Final = "/moby.filesync.v1.FileSend/DiffCopy"
_CREDENTIALS: Final = "/moby.filesync.v1.Auth/Credentials"
_SECRET: Final = "/moby.buildkit.secrets.v1.Secrets/GetSecret"  # noqa: S105 - a method's name
_CHECK_AGENT: Final = "/moby.sshforward.v1.SSH/CheckAgent"
_FORWARD: Final = "/moby.sshforward.v1.SSH/ForwardAgent"
_UPLOAD: Final = "/moby.upload.v1.Upload/Pull"
HEALTH: Final = "/grpc.health.v1.Health/Check"
_OUTPUT_PIECE: Final = 1 << 20
_HUB: Final = {"docker.io", "index.docker.io", "registry-1.docker.io"}
_STATS_AT_ONCE: Final = 512


class ClientSession(Session):
    """A connected client."""

    def __init__(self, id: str, shared_key: str, methods: Collection[str], channel: Channel) -> None:
        self._id = id
        self._shared_key = shared_key
        self._methods = frozenset(method.lower() for method in methods)
        self._channel = channel

    @property
    @override
    def id(self) -> str:
        return self._id

    @property
    @override
    def shared_key(self) -> str:
        return self._shared_key

    @override
    def offers(self, method: str) -> bool:
        return method.lower() in self._methods

    async def check_health(self) -> None:
        """Ask the client whether it is alive. Raises `GrpcError`."""
        await self._channel.call(HEALTH, HealthCheckRequest().SerializeToString())

    def _require(self, method: str, what: str) -> None:
        if not self.offers(method):
            raise UnsupportedError(f"the client of this build offers no {what}", subject=method)

    # Files of the client.

    @override
    async def sync(
        self,
        wish: SyncWish,
        into: str,
        *,
        told: Callable[[int], None] | None = None,
        memory: SyncMemory | None = None,
    ) -> Synced:
        self._require(_SYNC, "files")
        metadata = [
            ("dir-name", wish.name),
            *_patterns("include-patterns", wish.include),
            *_patterns("exclude-patterns", wish.exclude),
            *_patterns("followpaths", wish.follow),
        ]
        receiver = await aio.run(aio.DISK, partial(Receiver, into, told=told, memory=memory))
        try:
            with fs.explained("cannot write the client's files"):
                async with translated(), self._channel.open(_SYNC, metadata) as call:
                    await _receive_tree(call, receiver)
        finally:
            with anyio.CancelScope(shield=True):
                await aio.run(aio.DISK, receiver.close)
        return receiver.synced

    @override
    async def send_tree(self, index: int, parts: Sequence[TreePart], *, epoch: int | None = None) -> None:
        self._require(_SEND, "place for files")
        async with translated(), self._channel.open(_SEND, _output(index, {})) as call:
            await _send_tree(call, Sender(parts, epoch=epoch))

    @override
    def open_output(self, index: int, metadata: Mapping[str, str]) -> AbstractAsyncContextManager[Stream]:
        self._require(_SEND, "place for an output")
        return self._open_output(index, metadata)

    @asynccontextmanager
    async def _open_output(self, index: int, metadata: Mapping[str, str]) -> AsyncGenerator[Stream]:
        async with self._channel.open(_SEND, _output(index, metadata)) as call:
            try:
                yield _Bytes(call)
                await call.close_send()
                await call.wait_end()
            except GrpcError as exc:
                if exc.code is not Code.ALREADY_EXISTS:  # the client has it
                    raise error_of(exc) from exc

    # What the client knows.

    @override
    async def credentials(self, host: str) -> Credentials | None:
        if not self.offers(_CREDENTIALS):
            return None
        asked = "registry-1.docker.io" if host in _HUB else host
        async with translated():
            raw = await self._channel.call(_CREDENTIALS, CredentialsRequest(host=asked).SerializeToString())
            answer = CredentialsResponse.FromString(raw)
        if not answer.secret:
            return None
        if not answer.username:
            return Credentials(identity_token=answer.secret, server_address=host)
        return Credentials(username=answer.username, password=answer.secret, server_address=host)

    @override
    async def secret(self, id: str) -> bytes:
        self._require(_SECRET, "secrets")
        async with translated():
            raw = await self._channel.call(_SECRET, GetSecretRequest(id=id).SerializeToString())
            return GetSecretResponse.FromString(raw).data
        raise AssertionError  # the context raises

    @override
    async def check_agent(self, id: str) -> None:
        self._require(_CHECK_AGENT, "SSH agents")
        async with translated():
            await self._channel.call(_CHECK_AGENT, CheckAgentRequest(id=id).SerializeToString())

    @override
    def open_agent(self, id: str) -> AbstractAsyncContextManager[Stream]:
        self._require(_FORWARD, "SSH agents")
        return self._open_stream(_FORWARD, [("buildkit.ssh.id", id)])

    @asynccontextmanager
    async def _open_stream(self, method: str, metadata: Metadata) -> AsyncGenerator[Stream]:
        async with translated(), self._channel.open(method, metadata) as call:
            yield _Bytes(call)

    @override
    async def upload(self, path: str, host: str) -> AsyncIterator[bytes]:
        self._require(_UPLOAD, "uploads")
        metadata = [("urlpath", path), ("urlhost", host)]
        async with translated(), self._channel.open(_UPLOAD, metadata) as call:
            while (message := await call.receive()) is not None:
                yield BytesMessage.FromString(message).data

    @override
    def content(self, store: str) -> ClientContent:
        return RemoteContent(self._channel, store)


class _Bytes(Stream):
    """``BytesMessage`` in both directions."""

    def __init__(self, call: ClientCall) -> None:
        self._call = call

    @override
    async def send(self, data: Buffer) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _OUTPUT_PIECE):
            piece = BytesMessage(data=bytes(view[start : start + _OUTPUT_PIECE]))
            await self._call.send(piece.SerializeToString())

    @override
    async def receive(self) -> bytes:
        while (message := await self._call.receive()) is not None:
            if data := BytesMessage.FromString(message).data:
                return data
        return b""


def _output(index: int, metadata: Mapping[str, str]) -> Metadata:
    return [
        ("buildkit-attachable-exporter-id", str(index)),
        *((f"exporter-md-{key.lower()}", value) for key, value in metadata.items()),
    ]


def _patterns(key: str, values: Sequence[str]) -> Metadata:
    """Values of one key; if one is not ASCII, all of them are escaped, and a further key says so."""
    if all(value.isascii() and value.isprintable() for value in values):
        return [(key, value) for value in values]
    return [(f"{key}-encoded", "1"), *((key, urllib.parse.quote_plus(value)) for value in values)]


async def _receive_tree(call: ClientCall, receiver: Receiver) -> None:
    """Take a tree in. Requests are sent beside the walk: a client whose answers nobody reads would read no requests either."""
    asking, asked = anyio.create_memory_object_stream[list[bytes]](1_000_000)

    async def ask() -> None:
        async for requests in asked:
            await call.send_all(requests)

    async with asking, asked, task_group() as tasks:  # who is cut off before `ask` begins closes both, too
        tasks.start_soon(ask)
        said_goodbye = False
        while True:
            packets = await call.receive_some()
            if not packets:
                break
            if not (packets := receiver.unknown(packets)):
                continue
            done = await aio.run(aio.DISK, receiver.take, packets)
            if done.requests:
                requests = [Packet(type=Packet.REQ, id=each).SerializeToString() for each in done.requests]
                asking.send_nowait(requests)
            if done.complete and not said_goodbye:
                said_goodbye = True
                asking.send_nowait([Packet(type=Packet.FIN).SerializeToString()])
            if done.finished:
                await call.close_send()
                await call.wait_end()
                break
        asking.close()


async def _send_tree(call: ClientCall, sender: Sender) -> None:
    wanting, wanted = anyio.create_memory_object_stream[int](1_000_000)

    async def listen() -> None:
        with wanting:
            while True:
                for raw in await call.receive_some() or [Packet(type=Packet.FIN).SerializeToString()]:
                    packet = Packet.FromString(raw)
                    if packet.type == Packet.REQ:
                        wanting.send_nowait(packet.id)
                    elif packet.type == Packet.FIN:
                        return
                    elif packet.type == Packet.ERR:
                        raise GrpcError(Code.UNKNOWN, packet.data.decode("utf-8", "replace"))

    async with (
        wanting,
        wanted,
        task_group() as tasks,
    ):  # who is cut off before `listen` begins closes both, too
        tasks.start_soon(listen)
        walk = sender.walk()
        while batch := await aio.run(aio.DISK, _some, walk):
            await call.send_all(batch)
        with wanted:
            async for number in wanted:
                await _send_file(call, sender, number)
    await call.send(Packet(type=Packet.FIN).SerializeToString())
    await call.close_send()
    while await call.receive_some():
        pass


def _some(walk: Iterator[Packet]) -> list[bytes]:
    return [packet.SerializeToString() for packet in itertools.islice(walk, _STATS_AT_ONCE)]


async def _send_file(call: ClientCall, sender: Sender, number: int) -> None:
    source = await aio.run(aio.DISK, sender.open, number)
    if isinstance(source, int):
        try:
            while data := await aio.run(aio.DISK, os.read, source, PIECE):
                await call.send(Packet(type=Packet.DATA, id=number, data=data).SerializeToString())
        finally:
            os.close(source)
    elif source:
        await call.send(Packet(type=Packet.DATA, id=number, data=source).SerializeToString())
    await call.send(Packet(type=Packet.DATA, id=number).SerializeToString())
