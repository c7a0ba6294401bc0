"""Layers whose contents are only a cache: made again from their blobs when they are used, dropped when there is no room.

**Trust.** What is made again is the tar stream; it is hashed on the way and becomes visible only if it is the diff ID that the
layer was committed with. A blob that is gone, damaged or another one leaves nothing.

**Durability.** None is needed. The data of a layer is written without a flush, so a power cut may leave a file of the right
length with wrong bytes; therefore the cache does not outlive its boot: `Cache.open` deletes what another boot left.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from lading.errors import DataLossError
from lading.formats import compression
from lading.formats.tar.entry import BLOCK
from lading.kit import fs
from lading.kit.failpoints import failpoint
from lading.kit.queues import ChunkQueue
from lading.kit.tasks import StoppedError
from lading.oci.digest import DiffID, Digest, Hasher, new_hasher

OpenBlob = Callable[[Digest], int]
"""Gives a descriptor of a stored blob's bytes, to be closed by the caller. Raises `FileNotFoundError` or `DataLossError`."""
_BOOT: Final = "cache-boot"
_PART: Final = ".part"
_READ: Final = 256 * 1024
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class RebuildError(DataLossError):
    """The contents of a layer cannot be made again."""

    code = "layer-not-rebuilt"


class Layer(NamedTuple):
    """What has to be known of a layer to make its contents again."""

    data: Path
    """Where they go."""
    length: int
    """Of the file: the stream, and zeros to whole blocks."""
    blob: Digest
    diff_id: DiffID

    def there(self) -> bool:
        """Whether the contents are there; then they count as used now."""
        try:
            if os.stat(self.data).st_size != self.length:
                return False
            os.utime(self.data)
        except FileNotFoundError:
            return False
        return True


class Cache:
    """The contents of a snapshotter's rebuildable layers. Blocking.

    Args:
        root: Where it remembers the boot.
        open_blob: Where the bytes come from.
        budget: Bytes that unused contents may take; ``None`` for no limit.

    """

    def __init__(self, root: Path, open_blob: OpenBlob, budget: int | None) -> None:
        self._root = root
        self._open_blob = open_blob
        self.budget = budget

    def open(self, layers: Iterable[Layer], boot_id: str) -> None:
        """Delete what an earlier boot left, and what an earlier process began."""
        try:
            same = (self._root / _BOOT).read_text("utf-8") == boot_id
        except FileNotFoundError:
            same = False
        for layer in layers:
            layer.data.with_suffix(_PART).unlink(missing_ok=True)
            if not same and layer.data.exists():
                layer.data.unlink()
                fs.fsync_directory(layer.data.parent)
        if not same:
            fs.write_atomic(self._root / _BOOT, boot_id.encode())

    def have(self, layers: Iterable[Layer]) -> None:
        """Have the contents of layers, several at once.

        Raises:
            RebuildError: A blob is missing, or is not what the layer was made of.
            OSError: Of writing.

        """
        missing = [layer for layer in layers if not layer.there()]
        if len(missing) == 1:
            self._rebuild(missing[0])
        elif missing:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(self._rebuild, missing))

    def evict(self, unused: Iterable[Layer], used: Iterable[Layer]) -> int:
        """Drop contents that are not used, those unused for longest first, until the rest keeps the budget; bytes freed."""
        if self.budget is None:
            return 0
        left = self.budget - sum(_allocated(layer.data)[1] for layer in used)
        freed = 0
        for (_, size), layer in sorted([(_allocated(layer.data), layer) for layer in unused], reverse=True):
            left -= size
            if size and left < 0:
                layer.data.unlink(missing_ok=True)
                freed += size
        return freed

    def _rebuild(self, layer: Layer) -> None:
        try:
            source = self._open_blob(layer.blob)
        except (FileNotFoundError, DataLossError) as exc:
            raise RebuildError(
                f"blob {layer.blob}, of which a layer's contents are made, is missing",
                hint="pull the image again",
                subject=layer.blob,
            ) from exc
        part = layer.data.with_suffix(_PART)
        try:
            self._decode(source, part, layer)
            failpoint("layer.rebuilt")
            os.rename(part, layer.data)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            os.close(source)

    def _decode(self, source: int, part: Path, layer: Layer) -> None:
        queue = ChunkQueue()
        hasher = new_hasher(layer.diff_id.algorithm)
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(_write, queue, part, layer.length, hasher)
            try:
                _inflate(source, queue, layer.length)
            except StoppedError:
                writing.result()  # raises what stopped it
                raise
            except (compression.CompressionError, compression.BombError) as exc:
                raise _wrong(layer, exc.message) from exc
            written = writing.result()
        found = DiffID.from_hasher(hasher, layer.diff_id.algorithm)
        if found != layer.diff_id or written + -written % BLOCK != layer.length:
            raise _wrong(layer, f"it unpacks to {found}")


def _wrong(layer: Layer, how: str) -> RebuildError:
    return RebuildError(
        f"blob {layer.blob} does not unpack to layer {layer.diff_id}: {how}",
        hint="run lading fsck --repair, or pull the image again",
        subject=layer.blob,
    )


def _inflate(source: int, queue: ChunkQueue, length: int) -> None:
    try:
        decompressor = compression.decompressor(compressed_size=os.fstat(source).st_size, quota=length)
        offset = 0
        while data := os.pread(source, _READ, offset):
            offset += len(data)
            for chunk in decompressor.feed(data):
                queue.put(chunk, memoryview(chunk).nbytes)
        for chunk in decompressor.finish():
            queue.put(chunk, memoryview(chunk).nbytes)
        queue.close()
    except BaseException:
        queue.abort()
        raise


def _write(queue: ChunkQueue, part: Path, length: int, hasher: Hasher) -> int:
    """Take the stream into a file that is filled up to ``length``; the stream's own length."""
    written = 0
    fd = os.open(part, _CREATE, 0o600)
    try:
        fs.allocate(fd, length, keep_size=True)
        while (chunk := queue.get()) is not None:
            hasher.update(chunk)
            fs.write_all(fd, chunk)
            written += memoryview(chunk).nbytes
        os.ftruncate(fd, length)
    except BaseException:
        queue.abort()
        raise
    finally:
        os.close(fd)
    return written


def _allocated(data: Path) -> tuple[int, int]:
    """When contents were last used, and the bytes that they take."""
    try:
        status = os.stat(data)
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_blocks * 512
