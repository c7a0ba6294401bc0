"""Layers as they are sent: a tar stream, compressed, and the digest of what went in."""

from collections.abc import Iterator

from typing_extensions import Buffer

from lading.formats.compression import Compression, compressor
from lading.oci.digest import DiffID, new_hasher


class LayerPacker:
    """Packs one tar stream. Feed it, write what comes out, and `finish`; then `diff_id` is known."""

    def __init__(
        self,
        compression: Compression = Compression.GZIP,
        level: int | None = None,
        *,
        algorithm: str = "sha256",
    ) -> None:
        """``algorithm`` is that of the diff ID. Raises as `compressor`, and as `new_hasher`."""
        self._compressor = compressor(compression, level)
        self._algorithm = algorithm
        self._hasher = new_hasher(algorithm)

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Take the next bytes of the stream; what is packed by now. Exhaust the iterator."""
        self._hasher.update(data)
        return self._compressor.feed(data)

    def finish(self) -> bytes:
        """The stream has ended; the rest of the blob."""
        return self._compressor.finish()

    def diff_id(self) -> DiffID:
        """The digest of all that was fed."""
        return DiffID.from_hasher(self._hasher, self._algorithm)
