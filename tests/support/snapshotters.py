"""A snapshotter on a disk of its own, with rows in SQLite, for the conformance suites."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from lading.core.metadata import Namespace
from lading.metadata.database import SqliteDatabase
from support.filesystems import open_descriptors, tmpfs


@asynccontextmanager
async def on_tmpfs(place: Path, kind: Callable[..., Any], name: str, durability: str) -> AsyncIterator[Any]:
    """Open one of ``kind``; afterwards it is closed and must have let go of every descriptor."""
    with tmpfs(place) as disk:
        async with SqliteDatabase.open(disk / "lading.db", reserve=0) as database:
            before = open_descriptors()
            snapshotter = kind(
                disk / "snapshots",
                database.snapshots(Namespace("default"), name),
                durability=durability,
                boot_id="this-boot",
            )
            yield snapshotter
            await snapshotter.close()
            assert {one for one in open_descriptors() - before if "lading.db" not in one} == set()
