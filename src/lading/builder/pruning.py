"""What the build cache holds, and what goes when: BuildKit's rules (``cache/manager.go``, ``pruneOnce``)."""

import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Final

from lading.builder.model import PruneWish, UsageRecord
from lading.builder.usage import fields_of
from lading.core.buildcache import BuildCache, BuildRecord
from lading.core.snapshots import Snapshotter
from lading.errors import NotFoundError
from lading.formats import filters

_HIDDEN: Final = frozenset({"internal", "frontend"})
"""Kinds that go only if everything is to go."""
_DAY: Final = 24 * 3600
_TEMPORARY: Final = "type==source.local,type==exec.cachemount,type==source.git.checkout"


def default_policy(disk: int) -> list[PruneWish]:
    """What goes without being asked, on a disk of that many bytes (moby, ``builder-next/worker/gc.go``)."""
    bounds = PruneWish(
        reserved=disk // 10,
        max_used=max(1, disk * 8 // 10),
        min_free=disk * 2 // 10,
    )
    kinds = tuple(_TEMPORARY.split(","))
    return [
        PruneWish(filters=kinds, keep_seconds=2 * _DAY, max_used=512 * 1024 * 1024),
        replace(bounds, keep_seconds=60 * _DAY),
        bounds,
        replace(bounds, all=True),
    ]


async def disk_usage(
    cache: BuildCache,
    snapshotter: Snapshotter,
    in_use: Collection[str],
    measured: MutableMapping[str, int] | None = None,
) -> list[UsageRecord]:
    """Every record, the one used longest ago first; directories that change are measured now, but for those in ``measured``."""
    records = await cache.list()
    owners = _owners(records)
    sizes: MutableMapping[str, int] = {} if measured is None else measured
    return [await _usage(record, snapshotter, owners, record.id in in_use, sizes) for record in records]


def _owners(records: Sequence[BuildRecord]) -> Mapping[str, str]:
    """The record that each snapshot is there for."""
    return {name: record.id for record in records for name in record.own}


async def _usage(
    record: BuildRecord,
    snapshotter: Snapshotter,
    owners: Mapping[str, str],
    in_use: bool,
    measured: MutableMapping[str, int],
) -> UsageRecord:
    size = record.size
    if record.mutable:
        if record.mutable not in measured:
            measured[record.mutable] = await _measure(snapshotter, record.mutable)
        size = measured[record.mutable]
    below = [name for name in record.layers if name not in record.own]
    parent = owners.get(below[-1]) if below else None
    return UsageRecord(
        id=record.id,
        mutable=bool(record.mutable),
        in_use=in_use,
        size=size,
        parents=(parent,) if parent else (),
        created_at=record.created_at,
        last_used_at=record.used_at,
        usage_count=record.uses,
        description=record.description,
        record_type=record.kind,
        shared=False,
    )


async def _measure(snapshotter: Snapshotter, key: str) -> int:
    try:
        return (await snapshotter.usage(key)).size
    except NotFoundError:
        return 0


async def prune(
    cache: BuildCache,
    snapshotter: Snapshotter,
    wish: PruneWish,
    in_use: Callable[[], Collection[str]],
    free: Callable[[], int] = lambda: 2**63,
    measured: MutableMapping[str, int] | None = None,
) -> AsyncIterator[UsageRecord]:
    """Delete records, those used longest ago first and none that another one stands on; each as it goes.

    ``free`` tells the bytes that the disk has left; ``measured`` is as for `disk_usage`, for several rounds one after another.
    """
    condition = filters.parse_all(wish.filters)
    records = {record.id: record for record in await cache.list()}
    usage = {one.id: one for one in await disk_usage(cache, snapshotter, in_use(), measured)}
    total = sum(one.size for one in usage.values())
    keep = _keep(wish, total, free())
    oldest = time.time_ns() - round(wish.keep_seconds * 10**9)
    while not _bounded(wish) or total > keep:
        victim = _victim(records, usage, wish, condition, oldest, in_use())
        if victim is None:
            return
        one = usage[victim]
        del records[victim], usage[victim]
        if await cache.delete([victim]):
            total -= one.size
            yield one


def _bounded(wish: PruneWish) -> bool:
    return bool(wish.max_used or wish.reserved or wish.min_free)


def _keep(wish: PruneWish, total: int, free: int) -> int:
    """Bytes that may stay."""
    keep = wish.max_used
    excess = wish.min_free - free
    if excess > 0:
        keep = min(keep, total - excess) if keep else total - excess
    return max(keep, wish.reserved)


def _victim(
    records: Mapping[str, BuildRecord],
    usage: Mapping[str, UsageRecord],
    wish: PruneWish,
    condition: filters.Condition,
    oldest: int,
    in_use: Collection[str],
) -> str | None:
    """The next record to go."""
    needed = {name for record in records.values() for name in record.layers if name not in record.own}
    for record in records.values():
        if record.id in in_use or needed.intersection(record.own):
            continue
        if not wish.all and record.kind in _HIDDEN:
            continue
        if wish.keep_seconds and record.used_at > oldest:
            continue
        if condition(fields_of(usage[record.id])):
            return record.id
    return None
