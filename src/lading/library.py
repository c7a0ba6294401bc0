"""The library: an image store as a Python object, the same one that the daemon serves.

::

    async with lading.open_store("/var/lib/my-store") as store:
        image = await store.pull("alpine:3.20", platform="linux/arm64")
        async with store.mount(image.name) as root:
            print((root / "etc/os-release").read_text())

A data root belongs to one process at a time: while a daemon serves it, use the daemon's socket instead. Everything runs on
asyncio. What is raised is a class of `lading.errors`; what it says names the thing and the remedy.
"""

import os
import tempfile
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio

from lading.core.content import Reader
from lading.core.progress import Progress
from lading.core.remotes import Credentials
from lading.core.snapshots import SnapshotKey
from lading.daemon import image_store
from lading.daemon.config import Config, LadingSettings
from lading.daemon.events import EventBus
from lading.errors import NotFoundError
from lading.images.exchange import Login
from lading.kit import aio, fs, linux
from lading.oci import platform as platforms
from lading.oci import reference as references
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest

__all__ = ["Credentials", "Image", "Progress", "Store", "open_store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in the store. ``size`` counts all that is here of it, packed and unpacked, in bytes."""

    id: Digest
    """Digest of its target: an index or a manifest."""
    tags: tuple[str, ...]
    size: int

    @property
    def name(self) -> str:
        """A name for the other methods: its first tag, else its ID."""
        return self.tags[0] if self.tags else str(self.id)


@asynccontextmanager
async def open_store(
    path: str | os.PathLike[str],
    *,
    namespace: str = "moby",
    snapshotter: str = "",
    durability: Literal["lazy", "strict"] = "lazy",
    mirrors: Sequence[str] = (),
    insecure: Sequence[str] = (),
) -> "AsyncGenerator[Store]":
    """Open the store in directory ``path``, making it if need be; closed on leaving.

    Args:
        path: The data root.
        namespace: As containerd has them; the Engine API's is ``moby``.
        snapshotter: ``overlayfs`` or ``native``; by default the first that works.
        durability: Whether unpacked layers are flushed before a pull returns (``strict``) or after it.
        mirrors: URLs of mirrors of Docker Hub.
        insecure: Registries (``host:port``) that may be spoken to without TLS; loopback always may.

    Raises:
        LockedError: Another process has this data root open.
        DataLossError: Its database is damaged, or lost while what it knew is there (``lading fsck --rebuild`` makes a new one).

    """
    root = await aio.run(aio.DISK, _directory, path)
    config = Config(
        data_root=root,
        containerd_namespace=namespace,
        storage_driver=snapshotter,
        registry_mirrors=tuple(mirrors),
        insecure_registries=tuple(insecure),
        lading=LadingSettings(durability=durability),
    )
    async with AsyncExitStack() as stack:
        yield Store(await image_store.open_store(stack, config, EventBus(), uses=tuple))


def _directory(path: str | os.PathLike[str]) -> Path:
    root = Path(path).absolute()
    fs.make_directories(root, mode=0o711)
    return root


class Store:
    """An open store; made by `open_store`. Its methods may be called concurrently."""

    def __init__(self, parts: image_store.Store) -> None:
        self._parts = parts

    async def pull(
        self,
        name: str,
        *,
        platform: str = "",
        credentials: Credentials | None = None,
        progress: Progress | None = None,
    ) -> Image:
        """Fetch an image and unpack it for ``platform`` (``linux/arm64``; default: this machine's).

        A pull that was broken off goes on where it was. ``progress`` may be read meanwhile, from any task.
        """
        reference = references.parse(name).with_default_tag()
        wanted = [platforms.parse(platform)] if platform else []
        result = await self._parts.exchange.pull(
            reference, platforms=wanted, login=Login(credentials=credentials), progress=progress or Progress()
        )
        return await self.image(str(result.reference))

    async def images(self) -> list[Image]:
        """All images, newest first."""
        return [
            Image(id=row.target.digest, tags=tuple(row.tags), size=row.size)
            for row in await self._parts.images.list()
        ]

    async def image(self, name: str) -> Image:
        """The image of a name or ID. Raises `NotFoundError`."""
        detail = await self._parts.images.inspect(name)
        return Image(id=detail.target.digest, tags=tuple(detail.tags), size=detail.size)

    async def tag(self, name: str, new: str) -> None:
        """Give an image one more name. Raises `NotFoundError`, `InvalidArgumentError`."""
        await self._parts.images.tag(name, references.parse(new).with_default_tag())

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Take a name away, and with the last name the image. Raises `NotFoundError`, `ConflictError`."""
        await self._parts.images.remove(name, force=force)

    async def push(
        self, name: str, *, credentials: Credentials | None = None, progress: Progress | None = None
    ) -> None:
        """Send an image to the registry that its name says, byte for byte as it was received."""
        await self._parts.exchange.push(
            references.parse(name).with_default_tag(),
            platform=None,
            login=Login(credentials=credentials),
            progress=progress or Progress(),
        )

    async def export(self, names: str | Sequence[str], path: str | os.PathLike[str]) -> None:
        """Write images to a new tar archive that ``docker load`` and OCI tools read; whole or not at all."""
        saved = await self._parts.exchange.to_save([names] if isinstance(names, str) else list(names))
        final = Path(path)
        partial = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
        async with await anyio.open_file(partial, "xb") as file:
            try:

                async def sink(data: bytes) -> None:
                    await file.write(data)

                await self._parts.exchange.save(saved, sink)
                await file.flush()
                await aio.run(aio.DISK, os.fsync, file.wrapped.fileno())
                await aio.run(aio.DISK, os.rename, partial, final)
            except BaseException:
                os.unlink(partial)
                raise
        await aio.run(aio.DISK, fs.fsync_directory, final.parent)

    async def load(self, path: str | os.PathLike[str]) -> list[str]:
        """Take in a tar archive of images; their names."""
        async with await anyio.open_file(path, "rb") as file:

            async def chunks() -> AsyncIterator[bytes]:
                while chunk := await file.read(1 << 20):
                    yield chunk

            loaded = await self._parts.exchange.load(chunks(), progress=Progress())
        return [image.reference.familiar if image.reference else str(image.target.digest) for image in loaded]

    async def read(self, digest: Digest, *, limit: int = 4 << 20) -> bytes:
        """A small blob, such as a manifest, verified. Raises `NotFoundError`, `ResourceExhaustedError`."""
        return await self._parts.content.read(digest, limit=limit)

    @asynccontextmanager
    async def mount(self, name: str, *, platform: str = "") -> AsyncGenerator[Path]:
        """Show an image's root file system, read-only, below a temporary directory while the context is open.

        Needs root. The directory is visible to other processes of the machine.
        """
        wanted: Platform | None = platforms.parse(platform) if platform else None
        detail = await self._parts.images.inspect(name, platform=wanted)
        if detail.manifest is None:
            raise NotFoundError(f"no platform of image {name} is in the store", hint="pull it", subject=name)
        with tempfile.TemporaryDirectory(prefix="lading-mount-") as directory:
            key = SnapshotKey(f"library-{Path(directory).name}")
            lease = await self._parts.leases.create(labels={"lading.purpose": "library mount"})
            try:
                top = await self._parts.transfer.ensure_unpacked(detail.manifest.descriptor, lease=lease.id)
                mounts = await self._parts.snapshotter.view(key, top, lease=lease.id)
                try:
                    for each in mounts:
                        await aio.run(
                            aio.DISK, linux.mount_with, each.source, directory, each.type, each.options
                        )
                    yield Path(directory)
                finally:
                    with anyio.CancelScope(shield=True):
                        await aio.run(aio.DISK, linux.unmount, directory)
                        await self._parts.snapshotter.remove(key)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._parts.leases.delete(lease.id)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncGenerator[Reader]:
        """Open a blob for reading on threads; see `lading.core.content.Reader`."""
        async with self._parts.content.open_reader(digest) as reader:
            yield reader
