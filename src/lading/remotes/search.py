"""Searching a registry: Docker Hub's v1 protocol, which private registries may speak too, else the catalogue of the v2 API."""

import dataclasses
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode

import msgspec

from lading.core.remotes import SearchResult
from lading.errors import LadingError, UnsupportedError
from lading.oci.document import decode
from lading.remotes.errors import failure
from lading.remotes.hosts import DOCKER_HUB, Capability
from lading.remotes.session import Call, HostFailedError, Session

HUB_INDEX: Final = "index.docker.io"
"""Where Docker Hub answers searches; its registry does not."""
_ABSENT: Final = frozenset({400, 404, 405})
_CATALOG: Final = 1000


class _Found(msgspec.Struct):
    name: str
    description: str | None = ""
    star_count: int = 0
    is_official: bool = False


class _Results(msgspec.Struct):
    results: tuple[_Found, ...] | None = None


class _Catalog(msgspec.Struct):
    repositories: tuple[str, ...] | None = None


async def search(session: Session, term: str, limit: int) -> list[SearchResult]:
    """Ask the registry of ``session`` itself, never a mirror, for at most ``limit`` repositories.

    Raises:
        UnsupportedError: It can neither be searched nor tells its catalogue.
        UnavailableError, UnauthenticatedError: It did not answer, or refused.

    """
    host = (await session.hosts(Capability.PULL))[-1]
    if session.domain == DOCKER_HUB:
        host = dataclasses.replace(host, host=HUB_INDEX, port=None)
    index = dataclasses.replace(host, path="/v1")
    try:
        return await session.call(index, _call(session, "/search", {"q": term, "n": limit}, _results))
    except HostFailedError as exc:
        if exc.reply.status not in _ABSENT or session.domain == DOCKER_HUB:
            raise _failed(session, exc) from exc
    try:
        found = await session.call(host, _call(session, "/_catalog", {"n": _CATALOG}, _catalog))
    except HostFailedError as exc:
        if exc.reply.status in _ABSENT:
            raise UnsupportedError(
                f"{session.domain} cannot be searched", hint="name the image", subject=session.domain
            ) from exc
        raise _failed(session, exc) from exc
    return [each for each in found if term.lower() in each.name.lower()][:limit]


def _call(
    session: Session, path: str, query: dict[str, str | int], read: Callable[[bytes, int], list[SearchResult]]
) -> Call[list[SearchResult]]:
    limit = session.limits.tags_body
    return Call(
        method="GET",
        path=path,
        query=urlencode(query),
        consume=lambda response: read(response.read(limit), limit),
        more_scopes=("registry:catalog:*",),
    )


def _results(body: bytes, limit: int) -> list[SearchResult]:
    found = decode(body, _Results, what="search results", limit=limit).results or ()
    return [
        SearchResult(
            name=each.name,
            description=each.description or "",
            stars=each.star_count,
            official=each.is_official,
        )
        for each in found
    ]


def _catalog(body: bytes, limit: int) -> list[SearchResult]:
    found = decode(body, _Catalog, what="catalogue", limit=limit).repositories or ()
    return [SearchResult(name=name) for name in found]


def _failed(session: Session, exc: HostFailedError) -> LadingError:
    return failure(f"cannot search {session.domain}", (exc.reply,), subject=session.domain)
