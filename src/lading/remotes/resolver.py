"""Resolving references, listing tags, checking logins."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

import msgspec
from typing_extensions import override

from lading.core.remotes import (
    Credentials,
    Document,
    Fetcher,
    HostReply,
    Known,
    Pusher,
    Resolver,
    SearchResult,
)
from lading.errors import InvalidArgumentError, LadingError
from lading.oci import manifest
from lading.oci.digest import Digest
from lading.oci.document import decode
from lading.oci.reference import DEFAULT_TAG, Reference
from lading.remotes.auth import Identity
from lading.remotes.connection import Response
from lading.remotes.documents import ACCEPT, read_document
from lading.remotes.errors import RemoteDataError, TransportError, failure
from lading.remotes.fetcher import HttpFetcher
from lading.remotes.hosts import DOCKER_HUB, Capability, Host
from lading.remotes.keychain import HUB_KEY, bare_host
from lading.remotes.names import split_host
from lading.remotes.pusher import HttpPusher
from lading.remotes.search import search
from lading.remotes.session import Call, HostFailedError, Session, Shared

_NO_HEAD: Final = frozenset({400, 405, 501})
_NEXT: Final = re.compile(r'<([^<>]*)>[^,]*;\s*rel="?next"?', re.IGNORECASE)
_TAGS: Final = 1_000_000


class _Tags(msgspec.Struct):
    tags: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Page:
    tags: tuple[str, ...]
    url: str
    next: str


class HttpResolver(Resolver):
    """All registries, in the name of one caller."""

    def __init__(
        self, shared: Shared, credentials: Credentials | None, headers: Mapping[str, str] | None
    ) -> None:
        self._shared = shared
        self._credentials = credentials
        self._headers = tuple((headers or {}).items())

    def _session(self, reference: Reference) -> Session:
        return Session(self._shared, reference, self._credentials, self._headers)

    @override
    async def resolve(self, reference: Reference, *, known: Known | None = None) -> Document:
        session = self._session(reference)
        wanted = Capability.PULL if reference.digest else Capability.PULL | Capability.RESOLVE
        hosts = await session.hosts(wanted)
        replies: list[HostReply] = []
        wrong = False
        for number, host in enumerate(hosts):
            last = number == len(hosts) - 1
            try:
                found = await self._resolve_on(session, host, reference, known, last=last)
            except HostFailedError as exc:
                replies.append(exc.reply)
            except RemoteDataError as exc:
                wrong = True
                replies.append(HostReply(host=host.name, message=exc.message))
            else:
                manifest.parse(found.body, found.descriptor.media_type, what=f"manifest of {reference}")
                return found
        error = failure(f"cannot resolve {reference}", tuple(replies), subject=str(reference))
        if wrong:
            raise RemoteDataError(error.message, subject=str(reference), replies=tuple(replies))
        raise error

    async def _resolve_on(
        self, session: Session, host: Host, reference: Reference, known: Known | None, *, last: bool
    ) -> Document:
        target = str(reference.digest or reference.tag or DEFAULT_TAG)
        expected = reference.digest
        if expected is None:
            expected, media_type = await self._head(session, host, target, last=last)
            if expected and known and (have := await known(expected, media_type)):
                return have
        found = await self._get(session, host, str(expected or target), last=last)
        if expected is not None and found.descriptor.digest != expected:
            if not expected.matches(found.body):
                raise RemoteDataError(f"it sent other bytes than {expected}", subject=expected)
            found = Document(
                descriptor=msgspec.structs.replace(found.descriptor, digest=expected), body=found.body
            )
        return found

    @staticmethod
    async def _head(session: Session, host: Host, tag: str, *, last: bool) -> tuple[Digest | None, str]:
        """Digest and media type of a tag; None if this host does not say it for the asking."""
        call = Call(
            method="HEAD",
            path=f"/{session.path}/manifests/{tag}",
            consume=lambda response: (
                response.head.get("docker-content-digest"),
                response.head.get("content-type"),
            ),
            fields=(("Accept", ACCEPT),),
        )
        try:
            text, media_type = await session.call(host, call, last=last)
        except HostFailedError as exc:
            if exc.reply.status in _NO_HEAD:
                return None, ""
            raise
        try:
            return Digest(text) if text else None, media_type.partition(";")[0].strip().lower()
        except InvalidArgumentError as exc:
            raise RemoteDataError(f"it announced an {exc.message}") from exc

    @staticmethod
    async def _get(session: Session, host: Host, target: str, *, last: bool) -> Document:
        outcome = await session.call(
            host,
            Call(
                method="GET",
                path=f"/{session.path}/manifests/{target}",
                consume=_document_or_error,
                fields=(("Accept", ACCEPT),),
            ),
            last=last,
        )
        if isinstance(outcome, LadingError):
            raise outcome
        return outcome

    @override
    async def tags(self, repository: Reference) -> AsyncIterator[str]:
        session = self._session(repository)
        hosts = await session.hosts(Capability.PULL | Capability.RESOLVE)
        what = f"cannot list the tags of {repository.name}"
        query, seen, count = "n=1000", set[str](), 0
        for _ in range(self._shared.config.limits.pages):
            call = Call(method="GET", path=f"/{session.path}/tags/list", query=query, consume=self._read_page)
            page = await session.first(hosts, call, what=what)
            for tag in page.tags:
                yield tag
            count += len(page.tags)
            if not page.next:
                return
            query = self._next_query(page, what)
            if query in seen or count > _TAGS:
                break
            seen.add(query)
        raise RemoteDataError(f"{what}: the list has no end", subject=repository.name)

    def _read_page(self, response: Response) -> _Page:
        body = response.read(self._shared.config.limits.tags_body)
        listed = decode(body, _Tags, what="list of tags", limit=self._shared.config.limits.tags_body)
        match = _NEXT.search(response.head.get("link"))
        return _Page(listed.tags or (), response.url, match[1] if match else "")

    @staticmethod
    def _next_query(page: _Page, what: str) -> str:
        """Only the query of the next page is taken from the registry: where to ask is for us to say."""
        here, there = urlsplit(page.url), urlsplit(urljoin(page.url, page.next))
        if here.netloc != there.netloc or not there.path.endswith("/tags/list"):
            raise RemoteDataError(f"{what}: the next page is said to be elsewhere, at {there.netloc[:80]!r}")
        return "&".join(part for part in there.query.split("&") if not part.startswith("ns="))

    @override
    async def search(self, registry: str, term: str, *, limit: int) -> list[SearchResult]:
        split_host(registry)
        return await search(self._session(Reference(domain=registry, path="")), term, limit)

    @override
    def fetcher(self, repository: Reference) -> Fetcher:
        return HttpFetcher(self._session(repository))

    @override
    def pusher(self, repository: Reference) -> Pusher:
        return HttpPusher(self._session(repository))

    @override
    async def login(self, credentials: Credentials) -> str:
        server = credentials.server_address
        domain = bare_host(server)
        if server in {"", HUB_KEY} or domain in {"index.docker.io", "registry-1.docker.io"}:
            domain = DOCKER_HUB
        split_host(domain)
        session = Session(self._shared, Reference(domain=domain, path=""), credentials, self._headers)
        host = (await session.hosts(Capability.PULL))[-1]
        return await session.login(host, Identity.of(credentials))


def _document_or_error(response: Response) -> Document | LadingError:
    """So that what is wrong with the bytes is not taken for what is wrong with the connection."""
    try:
        return read_document(response)
    except TransportError:
        raise
    except LadingError as exc:
        return exc
