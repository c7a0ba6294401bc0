"""`SqliteDatabase` keeps the promises of its port."""

import pytest

from lading.metadata.database import SqliteDatabase
from lading.testing.buildcache import BuildCacheSuite
from lading.testing.metadata import DatabaseSuite


class TestSqliteDatabase(DatabaseSuite):
    @pytest.fixture
    async def database(self, tmp_path):
        async with SqliteDatabase.open(tmp_path / "lading.db", reserve=1 << 20) as database:
            yield database


class TestSqliteBuildCache(BuildCacheSuite):
    @pytest.fixture
    async def database(self, tmp_path):
        async with SqliteDatabase.open(tmp_path / "lading.db") as database:
            yield database
