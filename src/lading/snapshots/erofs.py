"""The erofs snapshotter: a layer is its tar stream and a metadata image, mounted as one, and stacked by overlayfs.

**On disk.** A layer's directory holds ``layer.data`` (the stream), ``layer.side`` (contents of sparse files, if any),
``layer.erofs`` (the metadata) and ``mnt``, where they are mounted. Instead of ``layer.data`` there may be ``layer.cache``,
or nothing, see rebuild.py. Active snapshots, and those committed from one, are directories as the overlayfs snapshotter
has them: overlayfs stacks both kinds. A layer whose contents are decoded on demand has ``layer.segments`` and
``layer.filled``, and is mounted on a device that fills them (ondemand.py).

**Mounts.** A layer is mounted once, when a snapshot above first needs it, and shared by all; overlayfs keeps a reference, so
unmounting a layer (`MNT_DETACH`) takes nothing away from containers that run. A mount found in place is used as it is, so
mounts survive the daemon; after a reboot they are made again on demand. Layers that nobody needs are unmounted
a while later, or when the snapshotter is closed.

**Trust.** The kernel's EROFS code sees only images that this module wrote: the row remembers the digest of the metadata,
and it is compared before every mount.
"""

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio
import structlog
from typing_extensions import override

from lading.core import metadata
from lading.core.devices import Devices
from lading.core.labels import LAYER_BLOB
from lading.core.metadata import SnapshotRow
from lading.core.mounts import Mount
from lading.core.snapshots import Capability, Kind, Labels, SnapshotKey, Usage
from lading.errors import DataLossError, FailedPreconditionError, LadingError
from lading.formats.erofs.tree import Device, Node, renew
from lading.formats.erofs.writer import ImageWriter
from lading.formats.tar.entry import BLOCK
from lading.kit import aio, linux
from lading.kit.aio import DISK, run
from lading.kit.failpoints import failpoint
from lading.kit.fs import write_all, write_out
from lading.oci.digest import DiffID, Digest
from lading.snapshots import compare, trees
from lading.snapshots.base import (
    FLUSH_DELAY,
    MAX_LAYER_BYTES,
    OPAQUE_ROOT,
    Durability,
)
from lading.snapshots.diff import Difference
from lading.snapshots.directories import probe_directory
from lading.snapshots.doubles import Doubles
from lading.snapshots.erofs_layer import DATA, SIDE, Built, Directory, LayerBuilder
from lading.snapshots.extract import Extracted, budget
from lading.snapshots.faults import translated
from lading.snapshots.layers import Lowers
from lading.snapshots.ondemand import OnDemand
from lading.snapshots.overlay import OverlaySnapshotter, mount_options
from lading.snapshots.pending import LayerExtractor, PendingLayer
from lading.snapshots.rebuild import CORES, INDEXED, SEGMENTS, Cache, Layer, OpenBlob

IMAGE: Final = "layer.erofs"
"""The metadata image."""
CACHE: Final = "layer.cache"
"""The tar stream of a layer whose contents are only a cache (rebuild.py)."""
POINT: Final = "mnt"
"""Where a layer is mounted."""
METADATA: Final = "erofs"
"""Key in `SnapshotRow.extra`: SHA-256 of the metadata image. Rows without it are directories."""
DEVICES: Final = "devices"
"""Key in `SnapshotRow.extra`: lengths in bytes of the devices, separated by commas."""
DIFF_ID: Final = "diff-id"
"""Key in `SnapshotRow.extra` of layers whose contents are only a cache (rebuild.py): what they are."""
IDLE_SECONDS: Final = 60.0
"""How long a layer stays mounted that no snapshot needs."""
_PROBED: Final = "user.lading"
LOOK: Final = 1.0
"""Least seconds between two looks for pages that are cached twice."""
_log: Final = structlog.get_logger(__name__)
_FLAGS: Final = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
"""Of the layers' own mounts (T7, T22); those that stack them decide for themselves."""
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DamagedLayerError(DataLossError):
    """A layer's files are not what was written."""

    code = "damaged-layer"


def probe(root: Path) -> str | None:
    """Why EROFS cannot be used on the file system of ``root``; ``None`` if it can. Blocking; mounts two."""

    def test(place: Path) -> None:
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir()
        content = b"content\n".ljust(3 * BLOCK, b".")
        (place / DATA).write_bytes(content)
        file = Node(
            stat.S_IFREG | 0o644, mtime=10**9 + 1, size=700, device=1, block=1, xattrs={_PROBED: b"y"}
        )
        tree = Node(stat.S_IFDIR | 0o755, children={"file": file})
        _write_image(place / IMAGE, ImageWriter(tree, [Device(blocks=3)], compact=False))
        linux.in_private_namespace(lambda: _try(place, content[BLOCK:][:700]))

    return probe_directory(root, test)


def _try(place: Path, expected: bytes) -> None:
    _mount_layer(place, place / "lower", [DATA])
    try:
        options = [
            *mount_options(),
            f"workdir={place}/work",
            f"upperdir={place}/upper",
            f"lowerdir={place}/lower",
        ]
        linux.mount_with("overlay", f"{place}/merged", "overlay", options)
        try:
            found = place / "merged" / "file"
            if found.read_bytes() != expected or found.stat().st_mtime_ns != 10**9 + 1:
                raise OSError(0, "EROFS shows wrong contents here")
            if os.getxattr(found, _PROBED) != b"y":  # without them whiteouts and capabilities would be lost
                raise OSError(0, "EROFS shows wrong attributes here")
            found.unlink()
            if not trees.is_whiteout(os.stat(place / "upper" / "file", follow_symlinks=False)):
                raise OSError(0, "overlayfs makes no whiteouts over EROFS here")
        finally:
            linux.unmount(f"{place}/merged")
    finally:
        linux.unmount(f"{place}/lower")


def _mount_layer(directory: Path, point: Path, devices: Sequence[str]) -> None:
    options = ",".join([f"device={directory / name}" for name in devices])
    linux.mount(str(directory / IMAGE), str(point), "erofs", _FLAGS, options)


def _write_image(path: Path, image: ImageWriter) -> str:
    """Write an image; its SHA-256."""
    hasher = hashlib.sha256(usedforsecurity=False)
    fd = os.open(path, _CREATE, 0o600)
    try:
        for chunk in image.chunks():
            hasher.update(chunk)
            write_all(fd, chunk)
    finally:
        os.close(fd)
    return hasher.hexdigest()


class _Builder(LayerBuilder):
    """Makes the metadata image as well, as if nothing were below: other layers, and the flush of the blob, go on meanwhile."""

    @override
    def finish(self) -> Built:
        built = super().finish()
        with translated("cannot write a layer"):
            image = _image(built)
            built.facts[METADATA] = _write_image(self._directory / IMAGE, image)
            failpoint("layer.imaged")
            built.facts[DEVICES] = ",".join(map(str, _lengths(built)))
            (self._directory / POINT).mkdir(mode=0o700)
        return replace(built, image=image)


def _lengths(built: Built) -> list[int]:
    return [length for length in (built.data, built.side) if length]


def _image(built: Built) -> ImageWriter:
    return ImageWriter(
        built.root, [Device(blocks=length // BLOCK) for length in _lengths(built)], compact=False
    )


class ErofsSnapshotter(OverlaySnapshotter):
    """`Snapshotter` on EROFS below overlayfs. Needs what `probe` tries."""

    def __init__(
        self,
        root: Path,
        rows: metadata.Snapshots,
        *,
        durability: Durability = "lazy",
        boot_id: str,
        max_layer_bytes: int = MAX_LAYER_BYTES,
        flush_delay: float = FLUSH_DELAY,
        idle_seconds: float = IDLE_SECONDS,
        open_blob: OpenBlob | None = None,
        cache_bytes: int | None = None,
        devices: Devices | None = None,
        large: int = INDEXED,
    ) -> None:
        """As `DirectorySnapshotter`.

        ``idle_seconds`` is how long a layer stays mounted that no snapshot needs. With ``cache_bytes`` the contents of
        layers whose blob is known are only a cache of this size; what is in use counts and stays. They are made again from what
        ``open_blob`` opens; those of ``large`` bytes or more by ``devices`` when they are read, if there are any.
        """
        super().__init__(
            root,
            rows,
            durability=durability,
            boot_id=boot_id,
            max_layer_bytes=max_layer_bytes,
            flush_delay=flush_delay,
        )
        self._idle_seconds = idle_seconds
        indexed = large if devices is not None or CORES > 2 else None
        self._cache = Cache(self._directories.path.parent, open_blob or _no_blob, cache_bytes, indexed)
        self._on_demand = OnDemand(devices, self._cache.source, large)
        self._restoring = threading.Lock()
        self._mounting = threading.Lock()
        self._used: dict[int, float] = {}
        self._awaited: Counter[int] = (
            Counter()
        )  # how often each layer is being mounted: that may take minutes
        self._needed: set[int] = set()
        """Layers that were below a snapshot when somebody looked last."""
        self._doubles = Doubles()
        self._unindexed = anyio.Event()

    @property
    @override
    def name(self) -> str:
        return "erofs"

    @property
    @override
    def capabilities(self) -> frozenset[Capability]:
        more = frozenset({Capability.REBUILDS}) if self._cache.budget is not None else frozenset[Capability]()
        return super().capabilities | more

    def cache_within(self, budget: int | None) -> None:
        """Change what ``cache_bytes`` was. Layers stay what they were committed as; without a budget none of them is dropped."""
        self._cache.budget = budget

    @override
    async def recover(self) -> list[str]:
        gone = await super().recover()
        kept = [self._rebuildable(row) for row in await self._rows.list() if DIFF_ID in row.extra]
        with translated("cannot tidy up layers"):
            await run(DISK, self._cache.open, kept, self._boot_id)
        self._unindexed.set()
        return gone

    # Layers.

    @override
    def _extractor(self, id: int, diff_id: DiffID, compressed_size: int, *, lowest: bool) -> LayerExtractor:
        with translated("cannot begin a layer"):
            return _Builder(
                self.path(id), budget=budget(compressed_size, self._max_layer_bytes), lowest=lowest
            )

    @override
    async def _publish(self, layer: PendingLayer, extracted: Extracted, labels: Labels) -> bool:
        assert isinstance(extracted, Built)
        if self._cache.budget is not None and LAYER_BLOB in labels and extracted.data:
            extracted.facts[DIFF_ID] = layer.diff_id
            with self._mounting:
                self._used[layer.id] = time.monotonic()  # those above may need it soon
        published = await super()._publish(layer, extracted, labels)
        if published:
            self._doubles.written(layer.id, extracted.samples)
        if DIFF_ID in extracted.facts:
            self._unindexed.set()
        return published

    @override
    def _complete(self, directory: Path, extracted: Extracted, parents: Sequence[SnapshotRow]) -> Usage:
        assert isinstance(extracted, Built)
        if METADATA not in extracted.facts:
            raise FailedPreconditionError(
                f"{directory} could not be completed before", hint="unpack it again"
            )
        if parents:
            self._mount(parents)
            with Lowers(self.stack(parents)) as lowers:
                self._amend(directory / IMAGE, extracted, lowers)
        if DIFF_ID in extracted.facts and not (directory / CACHE).exists():
            os.rename(directory / DATA, directory / CACHE)
        with os.scandir(directory) as entries:
            size = sum(os.stat(entry).st_blocks for entry in entries if entry.name != CACHE) * 512
        return Usage(size=size, inodes=extracted.usage.inodes)

    @staticmethod
    def _amend(path: Path, built: Built, lowers: Lowers) -> None:
        """Give the root, and directories that the layer only implies, what they have below; in the image too."""
        amended: list[Directory] = []
        image = built.image
        for path_, node in (("", built.root), *sorted(built.directories.items())):
            before, xattrs = (node.mode, node.uid, node.gid, node.mtime), node.xattrs
            _inherit(path_, node, lowers)
            if node.xattrs != xattrs:
                image = None
            elif (node.mode, node.uid, node.gid, node.mtime) != before:
                amended.append(node)
        if image is None:  # they need room that it does not have
            renew(built.root)
            image = _image(built)
        elif amended:
            for node in amended:
                image.amend(node)
        else:
            return
        del built.facts[METADATA]
        path.unlink()
        built.facts[METADATA] = _write_image(path, image)

    @override
    def _facts(self, extracted: Extracted) -> dict[str, str]:
        assert isinstance(extracted, Built)
        return super()._facts(extracted) | extracted.facts

    @override
    def _make_durable(self, ids: Sequence[int]) -> None:
        layers = [directory for directory in map(self.path, ids) if (directory / IMAGE).exists()]
        if len(layers) != len(ids):
            super()._make_durable(ids)
            return
        with translated("cannot flush snapshots"):
            for directory in layers:
                for name in (DATA, SIDE, IMAGE, "."):
                    _flush_file(directory / name)
            os.fsync(self._directories.fd)

    @override
    def _stream(self, row: SnapshotRow) -> Path | None:
        if row.info.kind is not Kind.COMMITTED or not row.extra.get(DEVICES) or DIFF_ID in row.extra:
            return None
        return self.path(row.id) / DATA

    # Mounts.

    @override
    def tree(self, row: SnapshotRow) -> Path:
        return self.path(row.id) / POINT if METADATA in row.extra else super().tree(row)

    @override
    async def mounts(self, key: SnapshotKey) -> list[Mount]:
        _, *parents = await self._rows.chain(key)
        await run(DISK, self._mount, parents)
        return await super().mounts(key)

    @override
    def _fill(self, directory: Path, kind: Kind, parents: Sequence[SnapshotRow]) -> None:
        self._mount(parents)
        super()._fill(directory, kind, parents)

    @override
    def _show(self, row: SnapshotRow, parents: Sequence[SnapshotRow]) -> list[Mount]:
        lowers = self.stack(parents)
        if row.info.kind is Kind.VIEW and len(lowers) == 1:
            # overlayfs takes two at least; a bind mount would show its marks and have our flags.
            options = (*mount_options(), f"lowerdir={lowers[0]}:{self.tree(row)}")
            return [Mount(type="overlay", source="overlay", options=options)]
        return super()._show(row, parents)

    @override
    def _show_committed(self, rows: Sequence[SnapshotRow]) -> list[Mount]:
        self._mount(rows)
        lowers = self.stack(rows)
        if len(lowers) == 1 and METADATA in rows[0].extra:
            # As in `_show`: overlayfs takes two at least.
            nothing = self._directories.path / "nothing"
            nothing.mkdir(mode=0o755, exist_ok=True)
            lowers.append(str(nothing))
            return [
                Mount(
                    type="overlay",
                    source="overlay",
                    options=(*mount_options(), f"lowerdir={':'.join(lowers)}"),
                )
            ]
        return super()._show_committed(rows)

    @override
    def _differences(self, row: SnapshotRow, parents: Sequence[SnapshotRow]) -> Generator[Difference]:
        self._mount([row, *parents])
        yield from super()._differences(row, parents)

    def _mount(self, rows: Sequence[SnapshotRow]) -> None:
        """Have these layers mounted, as far down as anything of them is seen. Blocking."""
        opaque = next((at for at, row in enumerate(rows) if row.extra.get(OPAQUE_ROOT)), len(rows))
        layers = [row for row in rows[: opaque + 1] if METADATA in row.extra]
        ids = Counter([row.id for row in layers])
        with self._mounting:
            self._awaited += ids
        try:
            devices = self._have({row.id: self._rebuildable(row) for row in layers if DIFF_ID in row.extra})
            for row in layers:
                with self._mounting:
                    self._mount_one(row, devices.get(row.id))
                    self._watch(row, devices.get(row.id))
        finally:
            with self._mounting:
                self._used.update({row.id: time.monotonic() for row in layers})
                self._awaited -= ids

    def _have(self, layers: dict[int, Layer]) -> dict[int, str]:
        """Have the contents of layers, or a device that decodes them when they are read: those that there are, by snapshot."""
        if not layers:
            return {}
        with self._restoring, translated("cannot make the contents of a layer again"):
            missing = [layer for layer in layers.values() if not layer.there()]
            devices = {layer.id: self._device(layer) for layer in missing}
            self._cache.have(layer for layer in missing if devices[layer.id] is None)
        return {number: path for number, path in devices.items() if path is not None}

    def _device(self, layer: Layer) -> str | None:
        # Whoever mounts it meanwhile has opened it: it would be kept for somebody who never comes.
        with self._mounting:
            if _is_mounted(layer.data.parent):
                serving = self._on_demand.serving(layer)
                if serving is not None:
                    return serving
                self._unmount(layer.data.parent)  # those who served it were killed
            return self._on_demand.attach(layer) if self._cache.budget is not None else None

    def _rebuildable(self, row: SnapshotRow) -> Layer:
        return Layer(
            id=row.id,
            data=self.path(row.id) / CACHE,
            length=int(row.extra[DEVICES].partition(",")[0]),
            blob=Digest(row.info.labels.get(LAYER_BLOB, "")),
            diff_id=DiffID(row.extra[DIFF_ID]),
        )

    def _mount_one(self, row: SnapshotRow, device: str | None) -> None:
        """Mount a layer, unless it is; on a device, if it has one that works."""
        directory = self.path(row.id)
        with translated(f"cannot mount layer {row.info.key}"):
            if _is_mounted(directory):
                return
            try:
                self._verify(row, device)
                lengths = row.extra[DEVICES].split(",") if row.extra[DEVICES] else []
                _mount_layer(directory, directory / POINT, _files(row, device)[: len(lengths)])
            except OSError as exc:
                if device is None:
                    raise
                self._on_demand.failed(self._rebuildable(row), exc)
                self._cache.have([self._rebuildable(row)])
                self._mount_one(row, None)
            failpoint("layer.mounted")

    def _watch(self, row: SnapshotRow, device: str | None) -> None:
        """Have what is cached twice dropped: below EROFS, and below a device."""
        below = () if device is None else (SEGMENTS,)
        directory = self.path(row.id)
        files = [directory / name for name in (*_files(row, device), *below)]
        self._doubles.watch(row.id, files, directory / POINT)

    @override
    def _compare(self, row: SnapshotRow, copy: SnapshotRow) -> str:
        if METADATA not in row.extra:
            return super()._compare(row, copy)
        here, there = self.path(row.id), self.path(copy.id)
        try:
            with open(here / IMAGE, "rb") as image:
                if hashlib.file_digest(image, "sha256").hexdigest() != row.extra[METADATA]:
                    return "its metadata is not what was written"
            for name, other in zip(_files(row, None), _files(copy, None), strict=True):
                if name == CACHE and not (here / name).exists():
                    continue  # made again, and verified then
                if (there / other).exists() and not compare.same_bytes(here / name, there / other):
                    return "its contents are not what was written"
        except FileNotFoundError:
            return "its files are gone"
        return ""

    def _verify(self, row: SnapshotRow, device: str | None) -> None:
        """Compare a layer's files with what its row says, so that the kernel reads no image but ours."""
        directory = self.path(row.id)
        lengths = [int(length) for length in row.extra[DEVICES].split(",") if length]
        try:
            with open(directory / IMAGE, "rb") as image:
                found = hashlib.file_digest(image, "sha256").hexdigest()
            intact = found == row.extra[METADATA] and all(
                os.stat(directory / name).st_size == length
                for name, length in zip(_files(row, device), lengths, strict=False)
                if name != device  # which has its length, and nothing to lose
            )
        except FileNotFoundError:
            intact = False
        if not intact:
            raise DamagedLayerError(
                f"the files of layer {row.info.key} are not what was written",
                hint="remove the images that use it and pull them again",
                subject=row.info.key,
            )

    @override
    def _release(self, directory: Path) -> None:
        with translated(f"cannot unmount {directory.name}"):
            self._unmount(directory)
        super()._release(directory)

    def _unmount(self, directory: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if _is_mounted(directory):
                linux.unmount(str(directory / POINT))

    @override
    async def settle(self) -> None:
        await super().settle()
        await self._unmount_idle(self._idle_seconds)

    async def _unmount_idle(self, seconds: float) -> None:
        rows = {row.info.key: row for row in await self._rows.list()}
        needed: set[int] = set()
        for row in rows.values():
            if row.info.kind is not Kind.COMMITTED:
                above: SnapshotRow | None = row
                while above is not None and above.id not in needed:
                    needed.add(above.id)
                    above = rows.get(above.info.parent or "")
        layers = [row for row in rows.values() if METADATA in row.extra and row.id not in needed]

        def rest() -> None:
            for row in layers:
                # A snapshot that is being made has used it just now.
                with self._mounting, translated(f"cannot unmount layer {row.info.key}"):
                    if row.id in self._needed:  # a container may have run for hours since it was mounted
                        self._used[row.id] = time.monotonic()
                    used = self._used.get(row.id, float("-inf"))
                    if row.id not in self._awaited and time.monotonic() - used >= seconds:
                        self._unmount(self.path(row.id))
                        self._used.pop(row.id, None)
            self._needed = needed
            with self._mounting, translated("cannot evict contents of layers"):
                unused: list[Layer] = []
                in_use: list[Layer] = []
                for row in rows.values():
                    if DIFF_ID in row.extra:
                        used = row.id in self._used or row.id in self._awaited or row.id in needed
                        (in_use if used else unused).append(self._rebuildable(row))
                self._cache.evict(unused, in_use)
            self._doubles.keep({*needed, *self._used, *self._awaited})
            for row in rows.values():
                # Mounts that were found in place, after a start.
                if row.id in needed and row.id not in self._doubles and METADATA in row.extra:
                    layer = self._rebuildable(row) if DIFF_ID in row.extra else None
                    lazy = layer is not None and not layer.there()
                    self._watch(row, self._on_demand.serving(layer) if layer is not None and lazy else None)

        await run(DISK, rest)

    @override
    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._drop_doubles)
            tasks.start_soon(self._make_indexes)
            await super().run()

    async def _make_indexes(self) -> None:
        """Have seek indexes of large layers whose contents may go, one at a time."""
        refused: set[int] = set()
        while True:
            await self._unindexed.wait()
            self._unindexed = anyio.Event()
            await anyio.sleep(self._flush_delay)  # a pull goes first
            for row in await self._rows.list():
                if DIFF_ID in row.extra and row.id not in refused:
                    try:
                        await self._index(self._rebuildable(row))
                    except (LadingError, OSError) as exc:
                        refused.add(row.id)
                        _log.warning("layer_not_indexed", layer=row.info.key, reason=str(exc))

    async def _index(self, layer: Layer) -> None:
        if await run(DISK, self._cache.wants_index, layer):
            await run(aio.DATA, self._cache.make_index, layer, aio.wanted)

    async def _drop_doubles(self) -> None:
        while True:
            await anyio.sleep(max(self._doubles.wait(), LOOK))
            try:
                await run(DISK, self._doubles.drop)
            except OSError as exc:
                _log.info("page_cache_left_to_the_kernel", reason=str(exc))
                return

    @override
    async def _wait_for_work(self) -> None:
        with anyio.move_on_after(max(self._idle_seconds, 1.0)):  # what became idle is work, too
            await super()._wait_for_work()

    @override
    async def close(self) -> None:
        if not self._closed:
            with anyio.CancelScope(shield=True):
                await self._unmount_idle(0)
        await super().close()
        with anyio.CancelScope(shield=True):
            await run(DISK, self._on_demand.close)


def _files(row: SnapshotRow, device: str | None) -> tuple[str, str]:
    """What a layer is mounted on, below its directory unless it is absolute."""
    return device or (CACHE if DIFF_ID in row.extra else DATA), SIDE


def _is_mounted(directory: Path) -> bool:
    """Whether a layer is."""
    return os.stat(directory / POINT).st_dev != os.stat(directory).st_dev


def _no_blob(digest: Digest) -> int:
    raise FileNotFoundError(digest)


def _inherit(path: str, node: Directory, lowers: Lowers) -> None:
    """Give a directory that the layer only implies what it has below; a new one keeps what it has."""
    source = lowers.find(path)
    if source is None:
        return
    try:
        status = os.fstat(source)
        if stat.S_ISDIR(status.st_mode):
            node.mode, node.uid, node.gid = status.st_mode, status.st_uid, status.st_gid
            node.mtime = max(status.st_mtime_ns, 0)
            marks = {name: node.xattrs[name] for name in node.xattrs if name.startswith(trees.OVERLAY_XATTRS)}
            node.xattrs = trees.get_xattrs(f"/proc/self/fd/{source}/.") | marks
    finally:
        os.close(source)


def _flush_file(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        write_out(fd)
    finally:
        os.close(fd)
