"""Exchange: images to and from registries and archives, with Docker's names, words and events around the transfer."""

from collections.abc import AsyncIterable, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from lading.core import images
from lading.core.progress import Progress
from lading.core.remotes import Credentials, Document, Registries, SearchResult, replies_of
from lading.errors import (
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from lading.images.listing import parse_flag
from lading.images.lookup import NoSuchImageError
from lading.images.service import ImageService
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci import mediatypes, reference
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import CONFIG_LIMIT
from lading.oci.reference import Reference
from lading.transfer.archive_in import LoadedImage
from lading.transfer.archive_out import SavedImage, Sink
from lading.transfer.commit import Changes, CommitOptions
from lading.transfer.import_ import ImportOptions
from lading.transfer.pull import PullResult
from lading.transfer.push import PushResult
from lading.transfer.selection import NoMatchingPlatformError, Platforms
from lading.transfer.service import TransferService

T = TypeVar("T")
SEARCH_FILTERS: Final = frozenset({"is-automated", "is-official", "stars"})
_SEARCH_LIMIT: Final = 25
_SEARCH_MOST: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a client sends along to a registry."""

    credentials: Credentials | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """What a registry says of a reference, without pulling it."""

    document: Document
    platforms: Sequence[Platform]


class ImageExchange:
    """Pulls, pushes and inspects on behalf of clients."""

    def __init__(
        self,
        *,
        service: ImageService,
        records: images.Store,
        transfer: TransferService,
        registries: Registries,
    ) -> None:
        self._images = service
        self._records = records
        self._transfer = transfer
        self._registries = registries

    async def pull(
        self, ref: Reference, *, platforms: Platforms = None, login: Login, progress: Progress
    ) -> PullResult:
        """Pull one tag or digest, for this host or the platforms named. Raises `NotFoundError` and the like in Docker's words."""
        return await _worded(
            ref,
            self._transfer.pull(
                ref,
                platforms=platforms or None,
                credentials=login.credentials,
                headers=dict(login.headers or {}),
                progress=progress,
            ),
        )

    async def tags(self, repository: Reference, login: Login) -> Sequence[str]:
        """All tags of a repository, for a pull of everything. Raises `NotFoundError` if it has none."""
        resolver = self._registries.resolver(login.credentials, headers=login.headers)

        async def collect() -> list[str]:
            return [tag async for tag in resolver.tags(repository)]

        found = await _worded(repository, collect())
        if not found:
            raise NotFoundError(f"repository {repository.familiar_name} has no tags", subject=str(repository))
        return found

    async def to_push(self, name: Reference) -> Sequence[Reference]:
        """What a push of ``name`` means: that tag, or without one every tag of the repository that is here.

        Raises `NotFoundError` in Docker's words.
        """
        if name.digest is not None:
            raise InvalidArgumentError("cannot push a digest reference", subject=str(name))
        if name.tag:
            return [name]
        tags = [ref for ref, _ in await self._tags_here(name)]
        if not tags:
            raise NotFoundError(
                f"An image does not exist locally with the tag: {name.familiar_name}",
                subject=name.familiar_name,
            )
        return tags

    async def push(
        self, ref: Reference, *, platform: Platform | None = None, login: Login, progress: Progress
    ) -> PushResult:
        """Push one tag."""
        try:
            await self._records.get(str(ref))
        except NotFoundError as exc:
            raise NotFoundError(f"tag does not exist: {ref.familiar}", subject=ref.familiar) from exc
        return await self._transfer.push(
            str(ref),
            ref,
            platform=platform,
            credentials=login.credentials,
            headers=dict(login.headers or {}),
            progress=progress,
        )

    async def distribution(self, ref: Reference, login: Login) -> Remote:
        """What the registry has under a reference, and for which platforms."""
        resolver = self._registries.resolver(login.credentials, headers=login.headers)
        document = await _worded(ref, resolver.resolve(ref.with_default_tag()))
        descriptor = document.descriptor
        parsed = oci_manifest.parse(
            document.body, descriptor.media_type, what=f"manifest {descriptor.digest}"
        )
        if isinstance(parsed, oci_manifest.Index):
            return Remote(
                document=document, platforms=[d.platform for d in parsed.manifests if d.platform is not None]
            )
        if parsed.config.media_type not in mediatypes.CONFIGS:
            return Remote(document=document, platforms=())
        body = await resolver.fetcher(ref).document(parsed.config)
        if len(body.body) > CONFIG_LIMIT:
            raise InvalidArgumentError(f"the config of {ref} is over {CONFIG_LIMIT} bytes")
        return Remote(document=document, platforms=[oci_config.parse(body.body).platform])

    async def search(
        self, term: str, *, login: Login, limit: int = 0, filters: Mapping[str, Sequence[str]] | None = None
    ) -> Sequence[SearchResult]:
        """Repositories that fit ``term``, on Docker Hub or on the registry that the term begins with.

        Raises `InvalidArgumentError` for a bad limit or filter; as `lading.core.remotes.Resolver.search`.
        """
        filters = filters or {}
        limit = limit or _SEARCH_LIMIT
        if not term or "://" in term:
            raise InvalidArgumentError(
                f"invalid repository name: repository name ({term[:80]}) should not have a scheme or be empty"
            )
        if limit > _SEARCH_MOST:
            raise InvalidArgumentError(f"limit {limit} is outside the range of [1, {_SEARCH_MOST}]")
        stars = max((_stars(each) for each in filters.get("stars", ())), default=0)
        official = parse_flag(filters, "is-official")
        if parse_flag(filters, "is-automated"):
            return []
        registry, sought = _split_term(term)
        resolver = self._registries.resolver(login.credentials, headers=login.headers)
        found = await resolver.search(registry, sought, limit=limit)
        return [each for each in found if each.stars >= stars and official in (None, each.official)]

    async def to_save(self, names: Sequence[str]) -> Sequence[SavedImage]:
        """What a save of these names means. A name without tag or digest means every tag of the repository.

        Raises `NotFoundError` before anything is written.
        """
        chosen: dict[tuple[str, str], SavedImage] = {}
        for name in names:
            for image in await self._named(name):
                chosen[image.target.digest, str(image.reference)] = image
        return list(chosen.values())

    async def _named(self, name: str) -> Sequence[SavedImage]:
        try:
            found = await self._images.find(name)
        except NoSuchImageError:  # a repository need not have the tag latest
            if images_ := await self._all_tags(name):
                return images_
            raise
        ref = found.reference
        target = found.image.target
        if ref is None or ref.digest is not None:
            return [SavedImage(target=target)]
        if reference.parse(name).tag:
            return [SavedImage(target=target, reference=ref)]
        return await self._all_tags(name)

    async def _all_tags(self, name: str) -> Sequence[SavedImage]:
        """Every tag of a repository that is here; none if ``name`` is no repository's."""
        try:
            repository = reference.parse(name)
        except InvalidArgumentError:  # an ID
            return []
        if repository.tag or repository.digest is not None:
            return []
        return [SavedImage(target=target, reference=ref) for ref, target in await self._tags_here(repository)]

    async def _tags_here(self, repository: Reference) -> Sequence[tuple[Reference, Descriptor]]:
        named = [
            (reference.parse(record.name), record.target)
            for record in await self._records.list()
            if not reference.is_dangling(record.name)
        ]
        return [
            (ref, target)
            for ref, target in named
            if ref.name == repository.name and ref.tag and ref.digest is None
        ]

    async def save(
        self, images_: Sequence[SavedImage], sink: Sink, *, platforms: Sequence[Platform] = ()
    ) -> None:
        """Write images as one tar; see `lading.transfer.service.TransferService.save`."""
        await self._transfer.save(images_, sink, platforms=list(platforms) or None)

    async def load(
        self, source: AsyncIterable[bytes], *, platforms: Sequence[Platform] = (), progress: Progress
    ) -> Sequence[LoadedImage]:
        """Take in an archive; see `lading.transfer.service.TransferService.load`."""
        return await self._transfer.load(source, platforms=list(platforms) or None, progress=progress)

    async def commit(
        self,
        base: Descriptor,
        changes: Changes,
        options: CommitOptions,
        *,
        reference: Reference | None = None,
        parent: Digest | None = None,
    ) -> Descriptor:
        """Make an image of another and of changes; see `lading.transfer.service.TransferService.commit`."""
        return await self._transfer.commit(base, changes, options, reference=reference, parent=parent)

    async def import_(
        self, source: AsyncIterable[bytes], options: ImportOptions, *, name: Reference | None
    ) -> Descriptor:
        """Make an image of a root file system's tar; its target."""
        return await self._transfer.import_(source, options, reference=name)


def _split_term(term: str) -> tuple[str, str]:
    """The registry of a search term and what is sought there; a first part with a dot or a port names a registry."""
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return "docker.io", term.removeprefix("library/")


def _stars(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise InvalidArgumentError(f"invalid filter 'stars={value[:32]}'", hint="give a whole number")
    return int(value[:9])


async def _worded(ref: Reference, work: Awaitable[T]) -> T:
    """Docker's words for what a registry refused: it does not tell a missing repository from a forbidden one.

    What no registry said, because it is about this store or because we refused to go where a registry led, keeps its own.
    """
    try:
        return await work
    except NoMatchingPlatformError:
        raise
    except (UnauthenticatedError, PermissionDeniedError) as exc:
        if not any(reply.status for reply in replies_of(exc)):
            raise
        raise NotFoundError(
            f"pull access denied for {ref.familiar_name}, repository does not exist or may require 'docker login': {exc.message}",
            subject=str(ref),
        ) from exc
    except NotFoundError as exc:
        if not replies_of(exc):
            raise
        raise _missing(ref, exc) from exc


def _missing(ref: Reference, error: LadingError) -> NotFoundError:
    shown = ref.with_default_tag().familiar
    return NotFoundError(
        f'failed to resolve reference "{ref.with_default_tag()}": {shown}: not found: {error.message}',
        subject=str(ref),
    )
