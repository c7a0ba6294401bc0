"""Pushing: blobs in one request or in resumable chunks, mounts, manifests (distribution-spec, "Push")."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, urlencode

import anyio
from typing_extensions import override

from lading.core.content import Reader
from lading.core.remotes import HostReply, Pusher
from lading.errors import InvalidArgumentError, LadingError
from lading.oci import manifest, mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.document import MANIFEST_LIMIT, encode
from lading.remotes.auth import Bytes
from lading.remotes.client import Url
from lading.remotes.connection import Response
from lading.remotes.documents import ACCEPT, read_document, referrers_tag
from lading.remotes.errors import ProtocolError, RemoteDataError, failure
from lading.remotes.hosts import Capability, Host
from lading.remotes.http1 import parse_uploaded
from lading.remotes.session import Call, HostFailedError, Session

_GONE: Final = frozenset({404, 410})
_ODD_RANGE: Final = frozenset({409, 416})
_OCI_TYPES: Final = frozenset({mediatypes.OCI_INDEX, mediatypes.OCI_MANIFEST})
_MANIFEST_TYPES: Final = mediatypes.INDEXES | mediatypes.MANIFESTS | mediatypes.SCHEMA1


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload that the registry has open. ``least`` is the smallest chunk that it takes."""

    url: Url
    offset: int = 0
    least: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """What a registry says of what it has; empty where it says nothing."""

    length: str
    digest: str


class _Part:
    """A range of a blob as a request's body."""

    def __init__(self, content: Reader, start: int, length: int, on_bytes: Callable[[int], None]) -> None:
        self._content = content
        self._start = start
        self._on_bytes = on_bytes
        self.length = length

    def fill(self, buffer: memoryview, offset: int) -> int:
        """Read from the content."""
        return self._content.readinto(buffer, self._start + offset)

    def sent(self, offset: int) -> None:
        """Report absolute progress."""
        self._on_bytes(self._start + offset)


class HttpPusher(Pusher):
    """Writes one repository over HTTP, on the first host that takes pushes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._limits = session.limits
        self._open: dict[Digest, _Upload] = {}

    async def _host(self) -> Host:
        hosts = await self._session.hosts(Capability.PUSH)
        if not hosts:
            raise failure(f"cannot push to {self._session.name}", (), subject=self._session.name)
        return hosts[0]

    def _failed(self, what: str, exc: HostFailedError) -> LadingError:
        return failure(f"cannot {what} {self._session.name}", (exc.reply,), subject=self._session.name)

    @override
    async def exists(self, descriptor: Descriptor, *, tag: str | None = None) -> bool:
        kind = "manifests" if descriptor.media_type in _MANIFEST_TYPES else "blobs"
        accept = f"{descriptor.media_type}, */*"
        found = await self._head(kind, tag or descriptor.digest, accept)
        if found is None or found.length not in {"", str(descriptor.size)}:
            return False
        return tag is None or found.digest == descriptor.digest

    @override
    async def size(self, digest: Digest) -> int | None:
        found = await self._head("blobs", digest, "*/*")
        return int(found.length) if found is not None and found.length.isdecimal() else None

    async def _head(self, kind: str, name: str, accept: str) -> "_Found | None":
        """What the registry says of a blob or manifest; ``None`` if there is no such thing."""
        call = Call(
            method="HEAD",
            path=f"/{self._session.path}/{kind}/{name}",
            consume=lambda response: _Found(
                response.head.get("content-length"), response.head.get("docker-content-digest")
            ),
            fields=(("Accept", accept),),
            actions="pull,push",
        )
        try:
            return await self._session.call(await self._host(), call)
        except HostFailedError as exc:
            if exc.reply.status == 404:
                return None
            raise self._failed(f"ask for {name} in", exc) from exc

    @override
    async def mount(self, descriptor: Descriptor, source: str) -> bool:
        query = urlencode({"mount": descriptor.digest, "from": source}, quote_via=quote)
        try:
            upload = await self._start(await self._host(), query, (f"repository:{source}:pull",))
        except HostFailedError as exc:
            if exc.reply.status in {400, 401, 403, 404, 405}:
                return False  # mounting is a favour; the upload will say what is wrong
            raise self._failed("mount into", exc) from exc
        if upload is not None:
            self._open[descriptor.digest] = upload
        return upload is None

    async def _start(self, host: Host, query: str = "", scopes: tuple[str, ...] = ()) -> _Upload | None:
        """Open an upload; None if the registry has the blob already, by a mount."""
        call = Call(
            method="POST",
            path=f"/{self._session.path}/blobs/uploads/",
            query=query,
            consume=self._opened,
            expected=frozenset({201, 202}),
            actions="pull,push",
            more_scopes=scopes,
        )
        return await self._session.call(host, call)

    def _opened(self, response: Response) -> _Upload | None:
        if response.status == 201:
            return None
        least = response.head.get("oci-chunk-min-length")
        return _Upload(self._location(response), 0, int(least) if least.isascii() and least.isdigit() else 0)

    def _location(self, response: Response) -> Url:
        location = response.head.get("location")
        if not location:
            raise ProtocolError("the registry opened an upload and did not say where")
        return self._session.location(response.url, location)

    @override
    async def push(self, descriptor: Descriptor, content: Reader, *, on_bytes: Callable[[int], None]) -> None:
        if content.size != descriptor.size:
            raise InvalidArgumentError(
                f"the content of {descriptor.digest} has {content.size} bytes, not {descriptor.size}"
            )
        host = await self._host()
        upload = self._open.pop(descriptor.digest, None)
        replies: list[HostReply] = []
        best, idle = 0, 0
        while True:
            try:
                if upload is None:
                    upload = await self._start(host)
                if upload is None:
                    return
                if descriptor.size <= self._limits.monolithic:
                    await self._whole(host, upload, descriptor, content, on_bytes)
                    return
                while upload.offset < descriptor.size:
                    upload = await self._chunk(host, upload, descriptor, content, on_bytes)
                    if upload.offset > best:
                        best, idle = upload.offset, 0
                await self._close(host, upload, descriptor)
            except HostFailedError as exc:
                replies.append(exc.reply)
                if not _passing(exc):
                    if upload is not None:
                        await self._give_up(host, upload)
                    raise self._failed(f"push {descriptor.digest} to", exc) from exc
            else:
                return
            idle += 1
            if idle >= self._limits.attempts:
                raise failure(
                    f"cannot push {descriptor.digest} to {self._session.name}",
                    tuple(replies),
                    subject=descriptor.digest,
                )
            await self._session.shared.sleep(self._limits.backoff * 2 ** (idle - 1))
            refused = upload if replies[-1].status in _ODD_RANGE else None
            upload = await self._resume(host, upload, descriptor)
            if refused is not None and upload is not None and upload.offset == refused.offset:
                upload = (
                    None  # "0-0" is what both no byte and one byte look like; or it counts in its own way
                )

    async def _whole(
        self,
        host: Host,
        upload: _Upload,
        descriptor: Descriptor,
        content: Reader,
        on_bytes: Callable[[int], None],
    ) -> None:
        part = _Part(content, 0, descriptor.size, on_bytes)
        await self._put(host, upload, descriptor, part)

    async def _close(self, host: Host, upload: _Upload, descriptor: Descriptor) -> None:
        await self._put(host, upload, descriptor, None)

    async def _put(self, host: Host, upload: _Upload, descriptor: Descriptor, body: _Part | None) -> None:
        joiner = "&" if "?" in upload.url.target else "?"
        target = f"{upload.url.target}{joiner}digest={quote(descriptor.digest, safe='')}"
        call = Call(
            method="PUT",
            path="",
            url=Url(upload.url.origin, target),
            consume=lambda response: response.head.get("docker-content-digest"),
            expected=frozenset({201, 204}),
            fields=(("Content-Type", "application/octet-stream"),),
            body=body,
            actions="pull,push",
            repeatable=False,
        )
        _agree(await self._session.call(host, call), descriptor, self._session.name)

    async def _chunk(
        self,
        host: Host,
        upload: _Upload,
        descriptor: Descriptor,
        content: Reader,
        on_bytes: Callable[[int], None],
    ) -> _Upload:
        length = min(max(self._limits.upload_chunk, upload.least), descriptor.size - upload.offset)
        end = upload.offset + length
        call = Call(
            method="PATCH",
            path="",
            url=upload.url,
            consume=lambda response: self._advanced(response, upload, end),
            expected=frozenset({202, 201, 204}),
            fields=(
                ("Content-Type", "application/octet-stream"),
                ("Content-Range", f"{upload.offset}-{end - 1}"),
            ),
            body=_Part(content, upload.offset, length, on_bytes),
            actions="pull,push",
            repeatable=False,
        )
        return await self._session.call(host, call)

    def _advanced(self, response: Response, upload: _Upload, end: int) -> _Upload:
        said = response.head.get("range")
        offset = parse_uploaded(said) if said else end
        if not upload.offset < offset <= end:
            raise ProtocolError(
                f"the registry says that it has {offset} bytes of an upload that it was sent {end} of"
            )
        url = self._location(response) if response.head.get("location") else upload.url
        return replace(upload, url=url, offset=offset)

    async def _resume(self, host: Host, upload: _Upload | None, descriptor: Descriptor) -> _Upload | None:
        """Ask how much of an upload arrived; None if it is gone, or was of one piece, and must begin anew."""
        if upload is None or descriptor.size <= self._limits.monolithic:
            return None
        call = Call(
            method="GET",
            path="",
            url=upload.url,
            consume=lambda response: self._status(response, upload, descriptor.size),
            expected=frozenset({204, 202, 200}),
            actions="pull,push",
        )
        try:
            return await self._session.call(host, call)
        except HostFailedError:
            return None

    def _status(self, response: Response, upload: _Upload, size: int) -> _Upload:
        said = response.head.get("range")
        offset = parse_uploaded(said) if said else 0
        if offset > size:
            raise ProtocolError("the registry says that it has more of an upload than there is")
        url = self._location(response) if response.head.get("location") else upload.url
        return replace(upload, url=url, offset=offset)

    async def _give_up(self, host: Host, upload: _Upload) -> None:
        """Tell the registry that an upload will not be finished; it does not matter whether it listens."""
        call = Call(
            method="DELETE",
            path="",
            url=upload.url,
            consume=lambda _: None,
            expected=frozenset({200, 202, 204, 404}),
            actions="pull,push",
            repeatable=False,
        )
        with contextlib.suppress(LadingError), anyio.move_on_after(self._limits.connect):
            await self._session.call(host, call, last=False)

    @override
    async def put(self, descriptor: Descriptor, body: bytes, *, tag: str | None = None) -> None:
        if len(body) > MANIFEST_LIMIT:
            raise InvalidArgumentError(f"{descriptor.digest} is over {MANIFEST_LIMIT} bytes")
        if not descriptor.digest.matches(body):
            raise InvalidArgumentError(f"the bytes to put are not {descriptor.digest}")
        call = self._put_call(tag or descriptor.digest, descriptor.media_type, body)
        host = await self._host()
        try:
            said, knows_subject = await self._session.call(host, call)
            _agree(said, descriptor, self._session.name)
            if not knows_subject and descriptor.media_type in _OCI_TYPES:
                await self._refer(host, descriptor, body)
        except HostFailedError as exc:
            raise self._failed(f"put {descriptor.digest} into", exc) from exc

    async def _refer(self, host: Host, descriptor: Descriptor, body: bytes) -> None:
        """Keep the index of referrers for a registry that does not (distribution-spec, "Pushing Manifests with Subject")."""
        document = manifest.parse(body, descriptor.media_type)
        if document.subject is None:
            return
        tag = referrers_tag(document.subject.digest)
        listed = await self._listed(host, tag)
        if any(entry.digest == descriptor.digest for entry in listed.manifests):
            return
        artifact_type = document.artifact_type
        if not artifact_type and isinstance(document, manifest.Manifest):
            artifact_type = document.config.media_type
        entry = Descriptor(
            media_type=descriptor.media_type,
            digest=descriptor.digest,
            size=descriptor.size,
            annotations=document.annotations,
            artifact_type=artifact_type,
        )
        index = encode(
            manifest.Index(
                schema_version=2, media_type=mediatypes.OCI_INDEX, manifests=(*listed.manifests, entry)
            )
        )
        await self._session.call(host, self._put_call(tag, mediatypes.OCI_INDEX, index))

    def _put_call(self, name: str, media_type: str, body: bytes) -> Call[tuple[str, bool]]:
        return Call(
            method="PUT",
            path=f"/{self._session.path}/manifests/{name}",
            consume=_stored,
            expected=frozenset({200, 201, 202, 204}),
            fields=(("Content-Type", media_type),),
            body=Bytes(body),
            actions="pull,push",
        )

    async def _listed(self, host: Host, tag: str) -> manifest.Index:
        """What the tag lists already."""
        call = Call(
            method="GET",
            path=f"/{self._session.path}/manifests/{tag}",
            consume=read_document,
            fields=(("Accept", ACCEPT),),
            actions="pull,push",
        )
        try:
            found = await self._session.call(host, call)
        except HostFailedError as exc:
            if exc.reply.status != 404:
                raise
        else:
            listed = manifest.parse(found.body, found.descriptor.media_type, what=f"referrers tag {tag}")
            if isinstance(listed, manifest.Index):
                return listed
        return manifest.Index(schema_version=2, manifests=())


def _stored(response: Response) -> tuple[str, bool]:
    """The digest that a manifest was stored under, if said; and whether the registry keeps track of its subject."""
    return response.head.get("docker-content-digest"), bool(response.head.get("oci-subject"))


def _agree(said: str, descriptor: Descriptor, name: str) -> None:
    if said and said != descriptor.digest and said.startswith(descriptor.digest.algorithm + ":"):
        raise RemoteDataError(
            f"{name} stored {descriptor.digest} as {said[:100]!r}", subject=descriptor.digest
        )


def _passing(exc: HostFailedError) -> bool:
    """Whether the upload may go on after this."""
    status = exc.reply.status
    return (
        (status == 0 and exc.cause is not None)
        or status in _GONE | _ODD_RANGE
        or status >= 500
        or status == 429
    )
