"""Layers whose contents are only a cache: made again from their blobs when they are used, dropped when there is no room.

**Trust.** What is made again is the tar stream; it is hashed on the way and becomes visible only if it is the diff ID that the
layer was committed with. A blob that is gone, damaged or another one leaves nothing.

Bytes far behind the end of the archive are no part of the contents (`LayerBuilder`), but of the diff ID.

**Speed.** A large layer gets a seek index (`lading.formats.seek`) in the background, once it is there. From then on its segments
are decoded on all cores, each verified by itself: their digests were taken when the whole stream had the right diff ID. An index
that is damaged is deleted, and the layer decoded in one piece. Where it is of no use for
decoding on demand either, there is none on so few as two cores, which are busy with one piece.

Layers that can be decoded on demand are not made again here at all, see ondemand.py.

**Durability.** None is needed. The data of a layer is written without a flush, so a power cut may leave a file of the right
length with wrong bytes; therefore the cache does not outlive its boot: `Cache.open` deletes what another boot left.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import structlog
from typing_extensions import Buffer

from lading.errors import DataLossError
from lading.formats import compression
from lading.formats.seek import decoding, index
from lading.formats.seek.index import SeekIndex
from lading.formats.seek.indexing import Indexer
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


INDEXED: Final = 32 << 20
"""Bytes from which on a layer gets a seek index: decoding less in one piece takes no longer than a blink."""
CORES: Final = len(os.sched_getaffinity(0))
"""Threads that decode one layer. Decoding in one piece takes two, so that an index is worth its making where there are more."""
INDEX: Final = "layer.seek"
SEGMENTS: Final = "layer.segments"
FILLED: Final = "layer.filled"
_log: Final = structlog.get_logger(__name__)


class RebuildError(DataLossError):
    """The contents of a layer cannot be made again."""

    code = "layer-not-rebuilt"


class Layer(NamedTuple):
    """What has to be known of a layer to make its contents again."""

    id: int
    """Of its snapshot."""
    data: Path
    """Where they go."""
    length: int
    """Of the file: the stream, and zeros to whole blocks."""
    blob: Digest
    diff_id: DiffID

    @property
    def seek(self) -> Path:
        """Where its seek index is; an empty file says that none is possible."""
        return self.data.with_name(INDEX)

    @property
    def segments(self) -> Path:
        """Where a device has what was decoded on demand."""
        return self.data.with_name(SEGMENTS)

    @property
    def filled(self) -> Path:
        """Which of the segments are there."""
        return self.data.with_name(FILLED)

    def allocated(self) -> tuple[int, int]:
        """When the contents were last used, and the bytes that they take."""
        used = size = 0
        for path in (self.data, self.segments):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(path)
                used = max(used, status.st_mtime_ns)
                size += status.st_blocks * 512
        return used, size

    def drop(self) -> bool:
        """Delete the contents; whether there were any. Those that are mounted stay until they are not."""
        there = False
        for path in (self.data, self.filled, self.segments):  # segments mean nothing without the other
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                there = True
        return there

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
        indexed: Bytes from which on a layer gets a seek index; ``None`` for never.

    """

    def __init__(
        self,
        root: Path,
        open_blob: OpenBlob,
        budget: int | None,
        indexed: int | None = INDEXED if CORES > 2 else None,
    ) -> None:
        self._root = root
        self._open_blob = open_blob
        self.budget = budget
        self._indexed = indexed

    def open(self, layers: Iterable[Layer], boot_id: str) -> None:
        """Delete what an earlier boot left, and what an earlier process began."""
        try:
            same = (self._root / _BOOT).read_text("utf-8") == boot_id
        except FileNotFoundError:
            same = False
        for layer in layers:
            layer.data.with_suffix(_PART).unlink(missing_ok=True)
            if not same and layer.drop():
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
        left = self.budget - sum(layer.allocated()[1] for layer in used)
        freed = 0
        for (_, size), layer in sorted([(layer.allocated(), layer) for layer in unused], reverse=True):
            left -= size
            if size and left < 0:
                layer.drop()
                freed += size
        return freed

    def wants_index(self, layer: Layer) -> bool:
        """Whether a layer's contents may go, it is large, and nobody has looked yet where decoding can begin."""
        wanted = self.budget is not None and self._indexed is not None and layer.length >= self._indexed
        return wanted and not layer.seek.exists()

    def make_index(self, layer: Layer, go_on: Callable[[], bool] = lambda: True) -> None:
        """Decode a layer to see where decoding can begin. ``go_on`` is asked now and then.

        Raises:
            RebuildError: The blob is missing, or is not what the layer was made of.
            UnsupportedError: This machine cannot index it.
            OSError: Of reading the blob, or writing the index.

        """
        source = self.source(layer)
        try:
            head = os.pread(source, compression.MAGIC_LENGTH, 0)
            indexer = Indexer(compression.sniff(head), quota=layer.length)
            hasher = new_hasher(layer.diff_id.algorithm)
            for chunk in _decoded(source, indexer):
                hasher.update(chunk)
                if not go_on():
                    return
        except (
            compression.BombError
        ):  # more follows the archive than is kept, so that the segments would not fit
            fs.write_atomic(layer.seek, b"")
            return
        except compression.CompressionError as exc:
            raise _wrong(layer, exc.message) from exc
        finally:
            os.close(source)
        found = DiffID.from_hasher(hasher, layer.diff_id.algorithm)
        if found != layer.diff_id:
            raise _wrong(layer, f"it unpacks to {found}")
        made = indexer.index(layer.blob)
        fs.write_atomic(layer.seek, b"" if made is None else made.encode())

    def source(self, layer: Layer) -> int:
        """A descriptor of a layer's blob, to be closed by the caller. Raises `RebuildError`."""
        try:
            return self._open_blob(layer.blob)
        except (FileNotFoundError, DataLossError) as exc:
            raise RebuildError(
                f"blob {layer.blob}, of which a layer's contents are made, is missing",
                hint="pull the image again",
                subject=layer.blob,
            ) from exc

    def _rebuild(self, layer: Layer) -> None:
        source = self.source(layer)
        part = layer.data.with_suffix(_PART)
        seek = _read_index(layer)
        try:
            if seek is None or not _decode_segments(source, part, layer, seek):
                self._decode(source, part, layer)
            failpoint("layer.rebuilt")
            layer.drop()
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
                _inflate(source, queue)
            except StoppedError:
                writing.result()  # raises what stopped it
                raise
            except (compression.CompressionError, compression.BombError) as exc:
                raise _wrong(layer, exc.message) from exc
            written = writing.result()
        found = DiffID.from_hasher(hasher, layer.diff_id.algorithm)
        if found != layer.diff_id or written + -written % BLOCK < layer.length:
            raise _wrong(layer, f"it unpacks to {found}")


def _wrong(layer: Layer, how: str) -> RebuildError:
    return RebuildError(
        f"blob {layer.blob} does not unpack to layer {layer.diff_id}: {how}",
        hint="run lading fsck --repair, or pull the image again",
        subject=layer.blob,
    )


def _inflate(source: int, queue: ChunkQueue) -> None:
    try:
        decompressor = compression.decompressor(compressed_size=os.fstat(source).st_size)
        for chunk in _decoded(source, decompressor):
            queue.put(chunk, memoryview(chunk).nbytes)
        queue.close()
    except BaseException:
        queue.abort()
        raise


def _decoded(source: int, decompressor: compression.Decompressor) -> Iterator[Buffer]:
    offset = 0
    while data := os.pread(source, _READ, offset):
        offset += len(data)
        yield from decompressor.feed(data)
    yield from decompressor.finish()


def _read_index(layer: Layer) -> SeekIndex | None:
    """The seek index of a layer, if there is one that can be believed."""
    try:
        data = layer.seek.read_bytes()
    except FileNotFoundError:
        return None
    if not data:
        return None
    try:
        found = index.decode(data)
    except index.SeekIndexError as exc:
        reason = exc.message
    else:
        if found.blob == layer.blob and found.length + -found.length % BLOCK == layer.length:
            return found
        reason = "it is of another blob"
    _log.warning("seek_index_dropped", path=str(layer.seek), reason=reason)
    layer.seek.unlink(missing_ok=True)
    return None


def _decode_segments(source: int, part: Path, layer: Layer, seek: SeekIndex) -> bool:
    """Decode all segments, several at once. If one is not what it was, the index goes: whether all are. Raises `OSError`."""
    fd = os.open(part, _CREATE, 0o600)

    def decode(number: int) -> None:
        begin, end = seek.source(number)
        data = decoding.segment(seek, number, os.pread(source, end - begin, begin))
        _pwrite_all(fd, data, seek.offsets[number])

    try:
        fs.allocate(fd, layer.length)
        with ThreadPoolExecutor(CORES) as pool:
            try:
                for _ in pool.map(decode, range(len(seek.segments))):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        os.ftruncate(fd, layer.length)
    except decoding.DamagedSegmentError as exc:
        # The blob may be damaged, or the index: decoding in one piece tells.
        _log.warning("seek_index_dropped", path=str(layer.seek), reason=exc.message)
        layer.seek.unlink(missing_ok=True)
        return False
    finally:
        os.close(fd)
    return True


def _pwrite_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def _write(queue: ChunkQueue, part: Path, length: int, hasher: Hasher) -> int:
    """Take the stream into a file of ``length`` bytes, cut short or filled up; the stream's own length."""
    taken = 0
    fd = os.open(part, _CREATE, 0o600)
    try:
        fs.allocate(fd, length, keep_size=True)
        while (chunk := queue.get()) is not None:
            hasher.update(chunk)
            view = memoryview(chunk)
            fs.write_all(fd, view[: max(length - taken, 0)])
            taken += view.nbytes
        os.ftruncate(fd, length)
    except BaseException:
        queue.abort()
        raise
    finally:
        os.close(fd)
    return taken
