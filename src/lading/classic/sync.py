"""At start: the database learns what Docker's files say, whoever wrote them since the last time.

Docker's files are the truth of layers, images and names. What a crash of ours left half done is taken back or finished. What
we cannot account for is held: layers that no image needs, which dockerd's builder may still want, and those of its containers.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import structlog

from lading.classic.imagedb import ImageDatabase, Names
from lading.classic.layerdb import LayerDatabase, LayerRecord
from lading.classic.layout import DRIVER, Layout
from lading.classic.records import known_image
from lading.classic.rows import DRAFT, chain_id, is_described
from lading.classic.store import foreign_containers
from lading.core import content, images, leases, metadata
from lading.core.content import IngestRef
from lading.core.labels import GC_REF_SNAPSHOT
from lading.core.leases import LeaseID, Resource
from lading.core.metadata import TREE, SnapshotRow
from lading.core.snapshots import Kind, Usage
from lading.errors import AlreadyExistsError, DataLossError, LadingError, NotFoundError
from lading.kit import aio, fs
from lading.oci import config as oci_config
from lading.oci import mediatypes, reference
from lading.oci.descriptor import Descriptor
from lading.oci.digest import ChainID, Digest

KEPT: Final = LeaseID("classic.kept")
"""Lease on layers that no image of ours needs and that are not ours to delete."""
MOUNTED: Final = LeaseID("classic.mounted")
"""Lease on layers that containers of dockerd stand on."""
DOOMED: Final = "rm-"
UNMADE: Final = "new-"
_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The rows of the classic namespace, as the database has them."""

    snapshots: metadata.Snapshots
    records: images.Store
    content: content.Store
    leases: leases.Manager


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What was found: numbers of images and layers, and what changed since the last time."""

    images: int
    layers: int
    changed: int
    skipped: int


async def sync(layout: Layout, stores: Stores) -> Synced:
    """Bring the rows in line with Docker's files. No one else uses either meanwhile.

    Raises `DataLossError` if repositories.json is malformed.
    """
    layers = LayerDatabase(layout)
    names = await aio.run(aio.DISK, Names(layout).read)
    await _finish_images(layout, stores, names)
    records = await aio.run(aio.DISK, layers.layers)
    changed, fresh = await _sync_layers(stores.snapshots, records)
    removed = await stores.snapshots.removed()
    left = await _left_behind(layout, removed, records)
    await _drop_unfinished(layout, layers, stores.snapshots, {tree for _, tree in removed})
    await stores.snapshots.forget_removed(removed)
    found, skipped = await _images(layout, {record.chain_id for record in records})
    changed += await _sync_images(stores, found, names)
    await _hold(stores, layers, records, found, fresh - left)
    return Synced(images=len(found), layers=len(records), changed=changed, skipped=skipped)


async def _finish_images(layout: Layout, stores: Stores, names: dict[str, Digest]) -> None:
    """Remove the images whose removal a crash cut short, unless somebody has named or used them since."""
    database = ImageDatabase(layout)

    def work() -> set[Digest]:
        used = {*names.values(), *foreign_containers(layout.root).values()}
        for image in database.removals():
            if image in used:
                database.end_removal(image)
            else:
                database.remove(image)
                _log.info("removal_finished", image=image)
        return set(database.ids())

    here = await aio.run(aio.DISK, work)
    for lease in await stores.leases.list():
        image = known_image(lease.id)
        if image is not None and image not in here:
            await stores.leases.delete(lease.id)


async def _left_behind(
    layout: Layout, removed: AbstractSet[tuple[str, str]], records: Iterable[LayerRecord]
) -> set[ChainID]:
    """Layers without a row that a crash of ours left: before it had one, or after it went. The collector takes them."""

    def work() -> set[ChainID]:
        return {
            record.chain_id
            for record in records
            if (record.chain_id, record.tree) in removed or (layout.trees / record.tree / DRAFT).is_dir()
        }

    return await aio.run(aio.DISK, work)


async def _sync_layers(rows: metadata.Snapshots, records: Iterable[LayerRecord]) -> tuple[int, set[ChainID]]:
    """Rows for new layers, none for those that went; how many changed, and the new ones."""
    known = {row.info.key: row for row in await rows.list()}
    here = {record.chain_id: record for record in records}
    stale = [
        row
        for key, row in known.items()
        if (name := chain_id(key)) and not (name in here and here[name].tree == row.extra.get(TREE))
    ]
    for row in _children_first(stale, known):
        with contextlib.suppress(
            LadingError
        ):  # something of ours stands on it: it stays, and is found broken when used
            await rows.delete(row.info.key)
            del known[row.info.key]
    fresh: set[ChainID] = set()
    for record in here.values():
        if record.chain_id not in known and (
            record.parent is None or record.parent in known or record.parent in fresh
        ):
            await rows.create(
                record.chain_id,
                id=await rows.allocate(),
                kind=Kind.COMMITTED,
                parent=record.parent,
                labels={},
                usage=Usage(size=record.size, inodes=0),
                extra={TREE: record.tree},
            )
            fresh.add(record.chain_id)
    return len(stale) + len(fresh), fresh


def _children_first(rows: list[SnapshotRow], known: dict[str, SnapshotRow]) -> list[SnapshotRow]:
    def depth(row: SnapshotRow) -> int:
        count, at = 0, row
        while at.info.parent is not None and at.info.parent in known and count < len(known):
            count, at = count + 1, known[at.info.parent]
        return count

    return sorted(rows, key=depth, reverse=True)


async def _drop_unfinished(
    layout: Layout, layers: LayerDatabase, rows: metadata.Snapshots, removed: AbstractSet[str]
) -> None:
    """Take out of the way what a crash of ours left without a row: before it had one, or of the trees whose rows went."""
    kept = {row.extra.get(TREE, ""): is_described(row.info.key, row.info.kind) for row in await rows.list()}

    def work() -> None:
        for name in os.listdir(layout.trees):
            draft = layout.trees / name / DRAFT
            if name.startswith(DOOMED):
                continue
            if name in kept:
                if kept[name]:
                    shutil.rmtree(draft, ignore_errors=True)
            elif name.startswith(UNMADE) or draft.is_dir() or name in removed:
                os.rename(layout.trees / name, layout.trees / f"{DOOMED}{name}")
        for mount in layers.mounts():
            if mount.ours and mount.tree not in kept:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(layout.trees / mount.tree, layout.trees / f"{DOOMED}{mount.tree}")
                    fs.fsync_directory(layout.trees)
                layers.remove_mount(mount.name, mount.tree)
        for draft in layout.drafts.glob("write-set-*"):
            shutil.rmtree(draft, ignore_errors=True)
        for link in (layout.trees / "l").iterdir():  # whose tree is not there, whoever made it
            tree = link.readlink().parent.name
            if not (layout.trees / tree).exists():
                link.unlink()
        fs.fsync_directory(layout.trees)

    await aio.run(aio.DATA, work)


async def _images(
    layout: Layout, layers: set[ChainID]
) -> tuple[dict[Digest, tuple[bytes, ChainID | None]], int]:
    """Every image that can be opened, with its config and top layer; how many cannot. dockerd passes over the same ones."""
    database = ImageDatabase(layout)
    found: dict[Digest, tuple[bytes, ChainID | None]] = {}
    skipped = 0
    for image in await aio.run(aio.DISK, database.ids):
        try:
            body = await aio.run(aio.DISK, database.config, image)
            config = oci_config.parse(body, what=f"config {image}")
            top = config.chain[-1] if config.chain else None
            if top is not None and top not in layers:
                raise DataLossError(f"layer {top} is not here", subject=image)
        except LadingError as exc:
            _log.warning("image_not_opened", image=image, error=str(exc))
            skipped += 1
            continue
        found[image] = (body, top)
    return found, skipped


async def _sync_images(
    stores: Stores, found: dict[Digest, tuple[bytes, ChainID | None]], names: dict[str, Digest]
) -> int:
    lease = (await stores.leases.create()).id
    try:
        for image, (body, top) in found.items():
            await _keep_config(stores.content, image, body, top, lease)
        wanted = _wanted(found, names)
        changed = 0
        present = {record.name: record for record in await stores.records.list()}
        for name, image in wanted.items():
            if name not in present or present[name].target.digest != image:
                target = Descriptor(
                    media_type=mediatypes.DOCKER_CONFIG, digest=image, size=len(found[image][0])
                )
                await stores.records.put(name, target)
                changed += 1
        for name in present.keys() - wanted.keys():
            await stores.records.delete(name)
            changed += 1
        return changed
    finally:
        await stores.leases.delete(lease)


def _wanted(found: Iterable[Digest], names: dict[str, Digest]) -> dict[str, Digest]:
    """Record names to images, with one for each image that has no name."""
    here = set(found)
    wanted: dict[str, Digest] = {}
    for name, image in names.items():
        try:
            if image in here:
                wanted[str(reference.parse(name))] = image
        except LadingError:
            _log.warning("name_not_opened", name=name)
    nameless = here - set(wanted.values())
    return wanted | {reference.dangling_name(image): image for image in nameless}


async def _keep_config(
    blobs: content.Store, image: Digest, body: bytes, top: ChainID | None, lease: LeaseID
) -> None:
    """Have the config in the content store, where it keeps the image's layers by its label."""
    labels = {f"{GC_REF_SNAPSHOT}{DRIVER}": str(top)} if top is not None else {}
    expected = Descriptor(media_type=mediatypes.DOCKER_CONFIG, digest=image, size=len(body))
    try:
        async with blobs.open_writer(IngestRef(f"classic-{image}"), expected=expected, lease=lease) as writer:
            if writer.offset:
                await aio.run(aio.DISK, writer.truncate)
            await aio.run(aio.DISK, writer.write, body)
            await writer.commit(labels=labels)
    except AlreadyExistsError:
        info = await blobs.info(image)
        if not labels.items() <= dict(info.labels).items():
            await blobs.update(image, labels)


async def _hold(
    stores: Stores,
    layers: LayerDatabase,
    records: list[LayerRecord],
    found: dict[Digest, tuple[bytes, ChainID | None]],
    fresh: set[ChainID],
) -> None:
    """Leases on what is not ours to collect."""
    parent = {record.chain_id: record.parent for record in records}
    needed: set[ChainID] = set()
    for _, top in found.values():
        at = top
        while at is not None and at not in needed:
            needed.add(at)
            at = parent.get(at)
    await _make(stores.leases, KEPT)
    for name in fresh - needed:
        await stores.leases.add(KEPT, Resource(kind="snapshot", id=name, snapshotter=DRIVER))
    with contextlib.suppress(NotFoundError):
        await stores.leases.delete(MOUNTED)
    await _make(stores.leases, MOUNTED)
    for mount in await aio.run(aio.DISK, layers.mounts):
        if not mount.ours and mount.parent in parent:
            await stores.leases.add(
                MOUNTED, Resource(kind="snapshot", id=str(mount.parent), snapshotter=DRIVER)
            )


async def _make(manager: leases.Manager, id: LeaseID) -> None:
    with contextlib.suppress(AlreadyExistsError):
        await manager.create(id)
