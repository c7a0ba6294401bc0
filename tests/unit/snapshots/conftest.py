"""A database for snapshots whose layers are mounted; nothing stays mounted."""

import contextlib

import pytest

from lading.kit import linux
from lading.metadata.database import SqliteDatabase
from lading.snapshots.erofs import probe


@pytest.fixture
async def database(tmp_path):
    reason = probe(tmp_path / "probe")
    if reason:
        pytest.skip(f"no EROFS here: {reason}")
    async with SqliteDatabase.open(tmp_path / "lading.db", reserve=0) as database:
        try:
            yield database
        finally:
            for point in linux.mount_points(str(tmp_path)):
                with contextlib.suppress(OSError):
                    linux.unmount(point)
