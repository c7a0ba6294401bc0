"""A classic store that is only read: what a migration takes."""

from collections.abc import Iterator, Sequence
from typing import Final

import structlog
from typing_extensions import override

from lading.classic import assemble, packing
from lading.classic.imagedb import ImageDatabase, Names
from lading.classic.layerdb import SPLIT, LayerDatabase, LayerRecord
from lading.classic.layout import Layout
from lading.core import content
from lading.core.classic import ClassicImage, ClassicSource
from lading.core.content import Info
from lading.core.leases import LeaseID
from lading.errors import DataLossError, LadingError, NotFoundError
from lading.kit import aio
from lading.oci import reference
from lading.oci.digest import ChainID, Digest
from lading.oci.document import MANIFEST_LIMIT
from lading.oci.reference import Reference

_log: Final = structlog.get_logger(__name__)


class LocalClassicSource(ClassicSource):
    """`ClassicSource` in a data-root; ``blobs`` is the content of its namespace, where manifests may have been kept."""

    def __init__(self, layout: Layout, blobs: content.Store) -> None:
        self._layout = layout
        self._content = blobs
        self._images = ImageDatabase(layout)
        self._layers = LayerDatabase(layout)

    @override
    async def images(self) -> Sequence[ClassicImage]:
        return await aio.run(aio.DISK, self._read)

    def _read(self) -> list[ClassicImage]:
        names: dict[Digest, list[Reference]] = {}
        for name, image in Names(self._layout).read().items():
            names.setdefault(image, []).append(reference.parse(name))
        found: list[ClassicImage] = []
        for image in _parents_first(self._images):
            try:
                config = self._images.config(image)
            except LadingError as exc:
                _log.warning("image_not_read", image=image, error=str(exc))
                continue
            found.append(ClassicImage(id=image, config=config, names=tuple(names.get(image, ()))))
        return found

    @override
    async def manifest(self, digest: Digest) -> bytes | None:
        try:
            return await self._content.read(digest, limit=MANIFEST_LIMIT)
        except NotFoundError:
            return None

    def _record(self, chain_id: ChainID) -> LayerRecord:
        record = self._layers.read(chain_id)
        if record is None:
            raise DataLossError(f"layer {chain_id} is not here", subject=chain_id)
        return record

    @override
    async def pack(self, chain_id: ChainID, into: content.Store, *, lease: LeaseID) -> Info:
        record = await aio.run(aio.DISK, self._record, chain_id)
        return await packing.pack(self._layout, record, into, lease=lease)

    @override
    def layer(self, chain_id: ChainID) -> Iterator[bytes]:
        record = self._record(chain_id)
        yield from assemble.stream(
            self._layout.trees / record.tree / "diff", self._layers.directory(chain_id) / SPLIT
        )


def _parents_first(database: ImageDatabase) -> list[Digest]:
    parents = database.parents()

    def depth(image: Digest) -> int:
        count = 0
        at: Digest | None = image
        while (at := parents.get(at)) is not None and count < len(parents):
            count += 1
        return count

    return sorted(database.ids(), key=depth)
