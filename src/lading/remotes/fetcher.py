"""Fetching: blobs into sinks, whatever happens to the connections; manifests and referrers."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import anyio
import msgspec
from typing_extensions import override

from lading.core.remotes import Document, Fetcher, HostReply, Sink
from lading.errors import DataLossError, InvalidArgumentError, LadingError, NotFoundError
from lading.oci import manifest, mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.document import CONFIG_LIMIT, MANIFEST_LIMIT
from lading.remotes.connection import Response
from lading.remotes.documents import ACCEPT, read_document, referrers_tag, verified
from lading.remotes.errors import ProtocolError, RemoteDataError, TransportError, failure
from lading.remotes.hosts import Capability, Host
from lading.remotes.http1 import parse_content_range
from lading.remotes.session import Call, HostFailedError, Session
from lading.remotes.window import Chunk, SinkError, Window

PROGRESS: Final = 4096
"""A connection that brought fewer bytes than this made no progress."""
_MANIFEST_TYPES: Final = mediatypes.INDEXES | mediatypes.MANIFESTS | mediatypes.SCHEMA1
_REFERRERS_LIMIT: Final = 10_000


@dataclass(slots=True)
class _Cut:
    """How a body ended too early. ``wrong``: not by accident, the host has other bytes than it should."""

    message: str = ""
    wrong: bool = False


@dataclass(slots=True, kw_only=True)
class _Transfer:
    """One fetch, over all its connections."""

    descriptor: Descriptor
    window: Window
    hosts: list[Host]
    replies: list[HostReply] = field(default_factory=list[HostReply])
    ranges: bool = True
    wrong: bool = False
    idle_rounds: int = 0
    helpers: int = 0


class HttpFetcher(Fetcher):
    """Reads one repository over HTTP."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._limits = session.limits

    @override
    async def document(self, descriptor: Descriptor) -> Document:
        limit = MANIFEST_LIMIT if descriptor.media_type in _MANIFEST_TYPES else CONFIG_LIMIT
        if descriptor.size > limit:
            raise InvalidArgumentError(
                f"{descriptor.digest} has {descriptor.size} bytes, more than the {limit} of a document",
                subject=descriptor.digest,
            )
        what = f"cannot fetch {descriptor.digest} of {self._session.name}"
        call = Call(
            method="GET",
            path=self._path(descriptor),
            consume=lambda response: response.read(descriptor.size),
            fields=(("Accept", f"{descriptor.media_type}, */*"),),
        )
        replies: list[HostReply] = []
        wrong = False
        hosts = await self._session.hosts(Capability.PULL)
        for number, host in enumerate(hosts):
            try:
                body = await self._session.call(host, call, last=number == len(hosts) - 1)
                verified(body, descriptor, host.name)
            except HostFailedError as exc:
                replies.append(exc.reply)
                wrong = wrong or isinstance(exc.cause, ProtocolError)
            except DataLossError as exc:
                wrong = True
                replies.append(HostReply(host=host.name, message=exc.message))
            else:
                return Document(descriptor=descriptor, body=body)
        raise _failure(what, replies, descriptor, wrong=wrong)

    def _path(self, descriptor: Descriptor) -> str:
        kind = "manifests" if descriptor.media_type in _MANIFEST_TYPES else "blobs"
        return f"/{self._session.path}/{kind}/{descriptor.digest}"

    @override
    async def fetch(self, descriptor: Descriptor, sink: Sink, *, offset: int = 0) -> None:
        if not 0 <= offset <= descriptor.size:
            raise InvalidArgumentError(f"offset {offset} is not within {descriptor.digest}")
        if offset == descriptor.size:
            return
        transfer = _Transfer(
            descriptor=descriptor,
            window=Window(sink, offset, descriptor.size),
            hosts=await self._session.hosts(Capability.PULL),
        )
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    await self._lead(transfer, tasks)
                except (SinkError, LadingError) as exc:
                    failure = exc
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = _first(group)
        if isinstance(failure, SinkError):
            cause = failure.__cause__
            assert cause is not None
            raise cause
        if failure is not None:
            raise failure

    async def _lead(self, transfer: _Transfer, tasks: anyio.abc.TaskGroup) -> None:
        """Fetch chunk after chunk, and get helpers while that is slower than several connections might be."""
        limits, window = self._limits, transfer.window
        alone = window.unclaimed < limits.parallel_from or limits.parallel_connections < 2
        length = window.unclaimed if alone else limits.parallel_chunk
        while chunk := window.claim(window.unclaimed if not transfer.ranges else length):
            started = time.monotonic()
            await self._chunk(transfer, chunk)
            if alone or not transfer.ranges:
                continue
            speed = (chunk.end - chunk.start) / max(time.monotonic() - started, 1e-6)
            slow = speed < limits.parallel_below
            length = limits.parallel_chunk if slow or transfer.helpers else limits.single_chunk
            wanted = limits.parallel_connections - 1 - transfer.helpers if slow else 0
            for _ in range(wanted):
                if self._has_room(transfer):
                    transfer.helpers += 1
                    tasks.start_soon(self._help, transfer)

    def _has_room(self, transfer: _Transfer) -> bool:
        host = transfer.hosts[0]
        return self._session.shared.client.has_room(host.origin(host.schemes[0]))

    async def _help(self, transfer: _Transfer) -> None:
        try:
            while transfer.ranges and (chunk := transfer.window.claim(self._limits.parallel_chunk)):
                await self._chunk(transfer, chunk)
        finally:
            transfer.helpers -= 1

    async def _chunk(self, transfer: _Transfer, chunk: Chunk) -> None:
        """Fetch one chunk to its end, over as many connections and hosts as that takes."""
        while not chunk.complete:
            if not transfer.hosts:
                raise self._failed(transfer)
            host = transfer.hosts[0]
            before = chunk.received
            try:
                cut = await self._session.call(
                    host, self._call(transfer, chunk), last=len(transfer.hosts) == 1
                )
            except HostFailedError as exc:
                self._drop(transfer, host, exc.reply, wrong=exc.reply.status == 416)
                continue
            if not cut.message:
                transfer.idle_rounds = 0
                continue
            reply = HostReply(host=host.name, message=cut.message)
            if cut.wrong:
                self._drop(transfer, host, reply, wrong=True)
                continue
            transfer.replies.append(reply)
            if chunk.received - before >= PROGRESS:
                transfer.idle_rounds = 0
                continue
            transfer.idle_rounds += 1
            if transfer.idle_rounds >= self._limits.attempts:
                raise self._failed(transfer)
            if host in transfer.hosts:
                transfer.hosts.remove(host)
                transfer.hosts.append(host)
            await self._session.shared.sleep(self._limits.backoff * 2 ** (transfer.idle_rounds - 1))

    @staticmethod
    def _drop(transfer: _Transfer, host: Host, reply: HostReply, *, wrong: bool) -> None:
        transfer.replies.append(reply)
        transfer.wrong = transfer.wrong or wrong
        if host in transfer.hosts:
            transfer.hosts.remove(host)

    def _failed(self, transfer: _Transfer) -> LadingError:
        what = f"cannot fetch {transfer.descriptor.digest} of {self._session.name}"
        return _failure(what, transfer.replies, transfer.descriptor, wrong=transfer.wrong)

    def _call(self, transfer: _Transfer, chunk: Chunk) -> Call[_Cut]:
        size = transfer.descriptor.size
        ranged = chunk.next > 0 or chunk.end < size
        fields = (("Range", f"bytes={chunk.next}-{chunk.end - 1}"),) if ranged else ()

        def consume(response: Response) -> _Cut:
            try:
                self._receive(response, transfer, chunk)
            except RemoteDataError as exc:
                return _Cut(exc.message, wrong=True)
            except ProtocolError as exc:
                return _Cut(exc.message, wrong=True)
            except TransportError as exc:
                return _Cut(exc.message)
            return _Cut()

        return Call(
            method="GET",
            path=self._path(transfer.descriptor),
            consume=consume,
            expected=frozenset({200, 206} if ranged else {200}),
            fields=(*fields, ("Accept", "*/*")),
        )

    @staticmethod
    def _receive(response: Response, transfer: _Transfer, chunk: Chunk) -> None:
        """Blocking: put a body into the window; exactly the bytes that are missing, wherever the reply begins."""
        size, window = transfer.descriptor.size, transfer.window
        skip, length = 0, size
        if response.status == 206:
            first, last, total = parse_content_range(response.head.get("content-range"))
            if first != chunk.next or last >= chunk.end or total not in {None, size}:
                raise RemoteDataError(f"it sent another range than bytes {chunk.next}-{chunk.end - 1}/{size}")
            length = last - first + 1
        else:
            skip = chunk.next
            if skip or chunk.end < size:
                transfer.ranges = False
                window.extend(chunk)
        if response.length >= 0 and response.length != length:
            raise RemoteDataError(f"it sends {response.length} bytes, not {length}")
        seen = 0
        while view := response.piece():
            seen += len(view)
            if seen > length:
                raise RemoteDataError(f"it sends more than {length} bytes")
            if skip:
                dropped = min(skip, len(view))
                skip -= dropped
                view = view[dropped:]
            view = view[: chunk.end - chunk.next]
            if view:
                window.put(chunk, view)
            if chunk.complete and chunk.end < size:
                break
        if chunk.complete:
            window.finish(chunk)
        elif seen < length:
            raise RemoteDataError(f"it sent {seen} bytes, not {length}")

    @override
    async def referrers(
        self, descriptor: Descriptor, *, artifact_types: Iterable[str] = ()
    ) -> list[Descriptor]:
        wanted = frozenset(artifact_types)
        path = f"/{self._session.path}/referrers/{descriptor.digest}"
        hosts = await self._session.hosts(Capability.PULL | Capability.REFERRERS)
        call = Call(
            method="GET",
            path=path,
            consume=lambda response: _Index(response.head.get("content-type"), response.read(MANIFEST_LIMIT)),
            fields=(("Accept", mediatypes.OCI_INDEX),),
        )
        try:
            found = await self._session.first(
                hosts, call, what=f"cannot list referrers of {descriptor.digest}"
            )
            if found.content_type.partition(";")[0].strip().lower() != mediatypes.OCI_INDEX:
                index = await self._tagged_referrers(descriptor, hosts, None)
            else:
                index = manifest.parse(
                    found.body, mediatypes.OCI_INDEX, what=f"referrers of {descriptor.digest}"
                )
        except (NotFoundError, InvalidArgumentError) as exc:
            index = await self._tagged_referrers(descriptor, hosts, exc)
        if not isinstance(index, manifest.Index):
            return []
        return [
            entry
            for entry in index.manifests[:_REFERRERS_LIMIT]
            if not wanted or entry.artifact_type in wanted
        ]

    async def _tagged_referrers(
        self, descriptor: Descriptor, hosts: list[Host], cause: LadingError | None
    ) -> manifest.Manifest | manifest.Index | None:
        """The index under the tag ``sha256-…`` (distribution-spec, "Referrers Tag Schema")."""
        tag = referrers_tag(descriptor.digest)
        call = Call(
            method="GET",
            path=f"/{self._session.path}/manifests/{tag}",
            consume=read_document,
            fields=(("Accept", ACCEPT),),
        )
        try:
            found = await self._session.first(
                hosts, call, what=f"cannot list referrers of {descriptor.digest}"
            )
        except NotFoundError:
            if cause is None or isinstance(cause, NotFoundError):
                return None
            raise cause from None
        return manifest.parse(found.body, found.descriptor.media_type, what=f"referrers tag {tag}")


class _Index(msgspec.Struct):
    content_type: str
    body: bytes


def _failure(what: str, replies: list[HostReply], descriptor: Descriptor, *, wrong: bool) -> LadingError:
    hint = ""
    if descriptor.urls:
        hint = "the layer is foreign: it is kept at addresses outside the registry, which are not followed"
    error = failure(what, tuple(replies), subject=descriptor.digest, hint=hint)
    if wrong and not isinstance(error, NotFoundError):
        return RemoteDataError(error.message, subject=descriptor.digest, replies=tuple(replies))
    return error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of several tasks that failed together."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner  # pyright: ignore[reportUnknownArgumentType]
