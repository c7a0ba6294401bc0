"""The classic store's own: what services ask of it beside the ports that it shares with the containerd store.

An image is a config; its ID is the config's digest; it may name another image of this machine as its *parent*, from which it was
built or committed. Layers are kept unpacked. To send an image out its layers are *materialised*: made again as tar streams, byte
for byte, verified, and stored as blobs for as long as a lease holds them.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lading.core import content, images
from lading.core.leases import LeaseID
from lading.oci.descriptor import Descriptor
from lading.oci.digest import ChainID, DiffID, Digest
from lading.oci.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBlob:
    """A blob that unpacks to a layer, where it was seen. Its size is 0 if that is not known."""

    repository: Reference
    blob: Descriptor


class ClassicStore(images.Naming, Protocol):
    """The images of a data-root in Docker's classic form."""

    async def parents(self) -> Mapping[Digest, Digest]:
        """Image to parent, for every image that has one."""
        ...

    async def has(self, image: Digest) -> bool:
        """Whether there is such an image."""
        ...

    async def made_from(self, parent: Digest | None) -> Sequence[Digest]:
        """The images whose parent this is; with ``None`` those that have none."""
        ...

    async def set_parent(self, image: Digest, parent: Digest) -> None:
        """Note that ``image`` was made from ``parent`` here. Raises `NotFoundError` if either is missing."""
        ...

    async def named_at(self, image: Digest) -> int:
        """When the image last got a name, in nanoseconds since the epoch; 0 if that is not known."""
        ...

    async def trees(self, chain: Sequence[ChainID]) -> Mapping[str, str]:
        """Docker's ``GraphDriver.Data``: ``LowerDir``, ``MergedDir``, ``UpperDir`` and ``WorkDir``, as paths."""
        ...

    async def trees_of(self, key: str) -> Mapping[str, str]:
        """The same of the writable layer with this key; empty if there is none."""
        ...

    async def foreign_uses(self) -> Mapping[str, Digest]:
        """Containers of dockerd that stand on images here, by ID: they are not ours to show, and keep their image."""
        ...

    def check_layers(self) -> AsyncIterator[tuple[ChainID, str]]:
        """Read every layer, and say what is wrong with it, or nothing: whether its tree still gives the bytes that it had."""
        ...

    async def seen(self, layer: ChainID) -> tuple[DiffID, Sequence[SeenBlob]]:
        """What a layer's stream is, and blobs that unpack to it, the ones seen last first. Raises `NotFoundError`."""
        ...

    async def known_blobs(
        self, image: Descriptor, repository: Reference
    ) -> Mapping[DiffID, Sequence[Descriptor]]:
        """Blobs that were seen on the registry of ``repository`` and unpack to the image's layers, likely ones first.

        A size of 0 means that it is not known.
        """
        ...

    async def materialise(
        self,
        image: Descriptor,
        *,
        lease: LeaseID,
        packed: bool,
        present: Mapping[DiffID, Descriptor] | None = None,
    ) -> Descriptor:
        """Store an image's manifest and layers as blobs that ``lease`` holds; the manifest.

        ``packed`` layers are in gzip, the same bytes each time; others are plain tars, whose digests are the diff IDs. Layers
        that are ``present`` where the image goes are only named.

        Raises:
            DataLossError: The tree does not give the bytes that the layer had.

        """
        ...

    async def note(self, image: Descriptor, manifest: Descriptor, repository: Reference) -> None:
        """Remember that ``repository`` has the image under ``manifest``, which is stored, and the layers' blobs with it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicImage:
    """An image of a classic store that is only read. ``names`` are its tags and, with digests, what registries call it."""

    id: Digest
    config: bytes
    names: Sequence[Reference]


class ClassicSource(Protocol):
    """A classic store that is only read, because another store is in use."""

    async def images(self) -> Sequence[ClassicImage]:
        """Every image that dockerd would show, parents before what was made from them."""
        ...

    async def manifest(self, digest: Digest) -> bytes | None:
        """The manifest or index of this digest, if it was kept."""
        ...

    async def pack(self, chain_id: ChainID, into: content.Store, *, lease: LeaseID) -> content.Info:
        """Put a layer, in gzip, into another store, where ``lease`` holds it; the same layer gives the same blob.

        Raises:
            DataLossError: The layer is missing, or its tree has changed.

        """
        ...

    def layer(self, chain_id: ChainID) -> Iterator[bytes]:
        """A layer's tar stream; blocking. Whoever takes it compares it with the diff ID.

        Raises:
            DataLossError: While iterating: the layer is missing, or its tree has changed.

        """
        ...
