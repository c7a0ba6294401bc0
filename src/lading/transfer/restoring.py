"""Layers that are kept unpacked: blobs whose bytes go, and come back when somebody wants them.

A compressed layer can be had again in two ways: its snapshot keeps the tar stream and we know a `Recipe` for the compressor,
found by trial, or a registry has it. The first is certain, and on this machine; the second is a promise of somebody else and has
to be allowed (``layers-refetch``). What neither way gives back stays. The way is written down, as a label of the blob, before
the bytes go; another label keeps the snapshot that the blob is made of. What comes back is verified like everything that is
stored.
"""

import json
import os
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio
import structlog
from typing_extensions import Buffer, override

from lading.core import content
from lading.core.content import Info
from lading.core.labels import GC_REF_SNAPSHOT, LAYER_BLOB, LAYER_SOURCE, RECIPE, UNCOMPRESSED
from lading.core.remotes import Registries
from lading.core.snapshots import SnapshotName, Snapshotter
from lading.errors import (
    DataLossError,
    FailedPreconditionError,
    LadingError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from lading.formats import recipes
from lading.formats.recipes import PROBE, STEP, Recipe
from lading.kit import aio
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.transfer.labels import repositories

IDLE_SECONDS: Final = 60.0
"""How long a blob stays that was just used, whatever the budget."""
_BATCH: Final = 8 << 20
"""Bytes that one call on a thread compresses: a cancelled one is waited for."""
_OCTETS: Final = "application/octet-stream"
_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FromSnapshot:
    """The bytes are the tar stream of a snapshot, ``length`` bytes long, compressed by a recipe."""

    name: SnapshotName
    length: int
    recipe: Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class FromRegistry:
    """The bytes are where the blob's labels say that it was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromNowhere:
    """It was tried: there is no way."""


Way = FromSnapshot | FromRegistry | FromNowhere


def way_of(info: Info) -> Way | None:
    """How a blob can be had again; ``None`` if nobody has tried."""
    text = info.labels.get(RECIPE)
    if text is None:
        return None
    document = cast("dict[str, Any]", json.loads(text))
    match document.get("from"):
        case "snapshot":
            return FromSnapshot(
                name=SnapshotName(document["name"]),
                length=document["length"],
                recipe=recipes.load(document),
            )
        case "registry":
            return FromRegistry()
        case _:
            return FromNowhere()


def _label(way: Way) -> str:
    match way:
        case FromSnapshot():
            document = {"from": "snapshot", "name": way.name, "length": way.length, **way.recipe.document()}
        case FromRegistry():
            document = {"from": "registry"}
        case FromNowhere():
            document = {"from": "nowhere"}
    return json.dumps(document, separators=(",", ":"))


class LayerRestorer(content.Restorer):
    """Makes the bytes of layer blobs again."""

    def __init__(self, snapshotter: Snapshotter, registries: Registries) -> None:
        self._snapshotter = snapshotter
        self._registries = registries

    @override
    def can(self, info: Info) -> bool:
        return RECIPE in info.labels and not isinstance(way_of(info), FromNowhere)

    @override
    async def restore(self, info: Info, write: Callable[[Buffer], None]) -> None:
        way = way_of(info)
        if isinstance(way, FromSnapshot):
            await self._pack(info, way, write)
        else:
            await self._fetch(info, write)

    async def _pack(self, info: Info, way: FromSnapshot, write: Callable[[Buffer], None]) -> None:
        try:
            async with self._snapshotter.open_stream(way.name) as fd:
                await _packed(fd, way.recipe, way.length, write)
        except (NotFoundError, UnsupportedError) as exc:
            raise DataLossError(
                f"blob {info.digest} is made of layer {way.name}, which is not here",
                hint="run lading fsck --repair, or pull the image again",
                subject=info.digest,
            ) from exc

    async def _fetch(self, info: Info, write: Callable[[Buffer], None]) -> None:
        descriptor = Descriptor(media_type=_OCTETS, digest=info.digest, size=info.size)
        done = 0

        def sink(data: memoryview) -> None:
            nonlocal done
            write(data)
            done += data.nbytes

        said: list[str] = []
        for repository in reversed(repositories(info)):
            fetcher = self._registries.resolver().fetcher(repository)
            try:
                await fetcher.fetch(descriptor, sink, offset=done)
            except LadingError as exc:
                said.append(f"{repository.name}: {exc.message}")
            else:
                return
        raise UnavailableError(
            f"blob {info.digest} is not kept here and no registry gives it: {'; '.join(said)}",
            hint="the daemon asks without credentials; pull the image again, or set lading.layers-refetch to false",
            subject=info.digest,
        )


class Releaser:
    """Lets the bytes of blobs go that can be had again, those unused for longest first, until the rest keeps a budget.

    Args:
        store: Of the blobs; restores by a `LayerRestorer`.
        snapshotter: Whose layers they are made of.
        budget: Bytes that may stay; ``None``: nothing goes.
        refetch: Whether it is enough that a registry has them.

    """

    def __init__(
        self, store: content.Store, snapshotter: Snapshotter, *, budget: int | None, refetch: bool
    ) -> None:
        self._content = store
        self._snapshotter = snapshotter
        self.budget = budget
        self.refetch = refetch
        self._one = anyio.Lock()

    async def run(self) -> None:
        """Do it now and then, until cancelled."""
        while True:
            await anyio.sleep(IDLE_SECONDS)
            try:
                await self.release()
            except LadingError as exc:
                _log.warning("layers_not_released", error=str(exc))

    async def release(self, *, idle: float = IDLE_SECONDS) -> int:
        """Do it now; the bytes freed. What was used within ``idle`` seconds stays."""
        if self.budget is None:
            return 0
        async with self._one:
            layers = {info.digest: info async for info in self._content.walk() if UNCOMPRESSED in info.labels}
            used = dict(await self._content.last_used(layers))
            snapshots: dict[str, SnapshotName] = {}  # by diff ID: one layer may have come in several blobs
            async for found in self._snapshotter.walk():
                if diff_id := _diff_id(found.labels, layers):
                    snapshots.setdefault(diff_id, SnapshotName(found.key))
                if LAYER_BLOB in found.labels:  # its contents are made of the blob, not the other way round
                    used.pop(Digest(found.labels[LAYER_BLOB]), None)
            left, freed = self.budget, 0
            for digest in sorted(used, key=lambda one: used[one], reverse=True):
                info = layers[digest]
                left -= info.size
                if left >= 0 or time.time() - used[digest] < idle:
                    continue
                gone = await self._let_go(info, snapshots.get(info.labels[UNCOMPRESSED]))
                freed += gone
                left += info.size  # it is away, or is none of those that the budget is about
            if freed:
                _log.info("layers_released", bytes=freed)
            return freed

    async def _let_go(self, info: Info, snapshot: SnapshotName | None) -> int:
        way = way_of(info)
        try:
            # A snapshot is tried anew, on the whole, each time that a file is there: either may have been damaged since.
            if not isinstance(way, FromRegistry | FromNowhere) or (
                isinstance(way, FromNowhere) and self._fetchable(info)
            ):
                way = await self._find(info, snapshot)
                if isinstance(way, FromNowhere) and snapshot is None:
                    return 0  # it may yet be unpacked
                labels = {RECIPE: _label(way)}
                if isinstance(way, FromSnapshot):
                    labels[f"{GC_REF_SNAPSHOT}{self._snapshotter.name}/bytes"] = way.name
                info = await self._content.update(info.digest, labels)
            if isinstance(way, FromSnapshot):
                async with self._snapshotter.open_stream(way.name):
                    return await self._content.release(info.digest)
            if isinstance(way, FromRegistry) and self.refetch:
                return await self._content.release(info.digest)
        except (NotFoundError, FailedPreconditionError):
            return 0  # deleted meanwhile, or not durable yet
        except LadingError as exc:
            _log.warning("layer_not_released", blob=str(info.digest), error=str(exc))
        return 0

    def _fetchable(self, info: Info) -> bool:
        return self.refetch and bool(repositories(info))

    async def _find(self, info: Info, snapshot: SnapshotName | None) -> Way:
        if snapshot is not None:
            try:
                async with (
                    self._snapshotter.open_stream(snapshot) as fd,
                    self._content.open_reader(info.digest) as blob,
                ):
                    found = await _recipe(fd, blob, info.digest)
            except UnsupportedError:
                found = None
            if found is not None:
                recipe, length = found
                return FromSnapshot(name=snapshot, length=length, recipe=recipe)
        return FromRegistry() if self._fetchable(info) else FromNowhere()


def _diff_id(labels: Mapping[str, str], blobs: Mapping[Digest, Info]) -> str:
    """The diff ID of a snapshot. One that was made by an earlier version tells only the blob that it was made of."""
    source = blobs.get(Digest(labels[LAYER_SOURCE])) if LAYER_SOURCE in labels else None
    return labels.get(UNCOMPRESSED, "") or (source.labels[UNCOMPRESSED] if source else "")


async def _recipe(fd: int, blob: content.Reader, digest: Digest) -> tuple[Recipe, int] | None:
    """The recipe by which a tar stream becomes a blob, and the stream's length. It was tried on the whole."""

    def probe() -> list[tuple[Recipe, int]]:
        whole = recipes.content_length(blob.pread(4, max(blob.size - 4, 0)), os.fstat(fd).st_size)
        start = os.pread(fd, min(PROBE, whole), 0)
        head = blob.pread(PROBE + STEP, 0)
        return [
            (recipe, whole) for recipe in recipes.candidates(head) if recipe.begins(start, head, length=whole)
        ]

    for recipe, length in await aio.run(aio.COMPRESS, probe):
        hasher = digest.hasher()
        await _packed(fd, recipe, length, hasher.update)
        if hasher.hexdigest() == digest.hex:
            return recipe, length
    return None


async def _packed(fd: int, recipe: Recipe, length: int, write: Callable[[Buffer], None]) -> None:
    """Compress ``length`` bytes of a file."""
    steps = _steps(fd, recipe, length, write)
    try:
        while await aio.run(aio.COMPRESS, next, steps, None) is not None:
            pass
    finally:
        steps.close()


def _steps(fd: int, recipe: Recipe, length: int, write: Callable[[Buffer], None]) -> Generator[int]:
    packer = recipe.packer(length)
    for start in range(0, length, _BATCH):
        for at in range(start, min(start + _BATCH, length), STEP):
            wanted = min(STEP, length - at)
            data = os.pread(fd, wanted, at)
            if len(data) != wanted:
                raise DataLossError("the tar stream of a layer is shorter than it was")
            for chunk in packer.feed(data):
                write(chunk)
        yield start
    for chunk in packer.finish():
        write(chunk)
