"""Exchange: images to and from registries and archives, with Docker's names, words and events around the transfer."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lading.core import events, images
from lading.core.progress import Progress
from lading.core.remotes import Credentials, Document, Registries
from lading.errors import (
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from lading.images.lookup import NoSuchImageError
from lading.images.service import ImageService
from lading.oci import mediatypes, reference
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci.descriptor import Platform
from lading.oci.document import CONFIG_LIMIT
from lading.oci.reference import Reference
from lading.transfer.pull import NoMatchingPlatformError, PullResult
from lading.transfer.push import PushResult
from lading.transfer.service import TransferService

T = TypeVar("T")


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
        images_: ImageService,
        records: images.Store,
        transfer: TransferService,
        registries: Registries,
        bus: events.Bus,
    ) -> None:
        self._images = images_
        self._records = records
        self._transfer = transfer
        self._registries = registries
        self._bus = bus

    async def pull(
        self, ref: Reference, *, platforms: Sequence[Platform] = (), login: Login, progress: Progress
    ) -> PullResult:
        """Pull one tag or digest. Raises `NotFoundError` and the like in Docker's words."""
        result = await _worded(
            ref,
            self._transfer.pull(
                ref,
                platforms=list(platforms) or None,
                credentials=login.credentials,
                headers=dict(login.headers or {}),
                progress=progress,
            ),
        )
        await self._drop_placeholder(result)
        self._bus.publish("image", "pull", result.reference.familiar, {"name": result.reference.familiar_name})
        return result

    async def _drop_placeholder(self, result: PullResult) -> None:
        """A target that has a name again needs no placeholder."""
        for record in await self._records.by_target(result.target.digest):
            if reference.is_dangling(record.name):
                await self._records.delete(record.name)

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
        known = [reference.parse(r.name) for r in await self._records.list() if not reference.is_dangling(r.name)]
        tags = [r for r in known if r.name == name.name and r.tag and r.digest is None]
        if not tags:
            raise NotFoundError(
                f"An image does not exist locally with the tag: {name.familiar_name}", subject=name.familiar_name
            )
        return tags

    async def push(
        self, ref: Reference, *, platform: Platform | None = None, login: Login, progress: Progress
    ) -> PushResult:
        """Push one tag."""
        try:
            record = await self._records.get(str(ref))
        except NotFoundError as exc:
            raise NotFoundError(f"tag does not exist: {ref.familiar}", subject=ref.familiar) from exc
        result = await self._transfer.push(
            record.target,
            ref,
            wanted=platform,
            credentials=login.credentials,
            headers=dict(login.headers or {}),
            progress=progress,
        )
        self._bus.publish("image", "push", ref.familiar, {"name": ref.familiar_name})
        return result

    async def distribution(self, ref: Reference, login: Login) -> Remote:
        """What the registry has under a reference, and for which platforms."""
        resolver = self._registries.resolver(login.credentials, headers=login.headers)
        document = await _worded(ref, resolver.resolve(ref.with_default_tag()))
        descriptor = document.descriptor
        parsed = oci_manifest.parse(document.body, descriptor.media_type, what=f"manifest {descriptor.digest}")
        if isinstance(parsed, oci_manifest.Index):
            return Remote(document=document, platforms=[d.platform for d in parsed.manifests if d.platform is not None])
        if parsed.config.media_type not in mediatypes.CONFIGS:
            return Remote(document=document, platforms=())
        body = await resolver.fetcher(ref).document(parsed.config)
        if len(body.body) > CONFIG_LIMIT:
            raise InvalidArgumentError(f"the config of {ref} is over {CONFIG_LIMIT} bytes")
        return Remote(document=document, platforms=[oci_config.parse(body.body).platform])

    def publish(self, action: str, actor: str, name: str) -> None:
        """Tell that something happened to an image."""
        self._bus.publish("image", action, actor, {"name": name})


async def _worded(ref: Reference, work: Awaitable[T]) -> T:
    """Docker's words for what a registry refused: it does not tell a missing repository from a forbidden one."""
    try:
        return await work
    except NoMatchingPlatformError:
        raise
    except (UnauthenticatedError, PermissionDeniedError) as exc:
        raise NotFoundError(
            f"pull access denied for {ref.familiar_name}, repository does not exist or may require 'docker login': {exc.message}",
            subject=str(ref),
        ) from exc
    except NotFoundError as exc:
        raise _missing(ref, exc) from exc


def _missing(ref: Reference, error: LadingError) -> NotFoundError:
    shown = ref.with_default_tag().familiar
    if isinstance(error, NoSuchImageError):
        return error
    return NotFoundError(f'failed to resolve reference "{ref.with_default_tag()}": {shown}: not found: {error.message}', subject=str(ref))


