"""The fakes keep the promises of the ports that they stand in for."""

import pytest

from lading.testing.buildcache import BuildCacheSuite
from lading.testing.content import HERE, THERE, ContentStoreSuite
from lading.testing.memory.content import MemoryContentStore
from lading.testing.memory.metadata import MemoryDatabase
from lading.testing.metadata import DatabaseSuite


class TestMemoryDatabase(DatabaseSuite):
    @pytest.fixture
    async def database(self):
        return MemoryDatabase()


class TestMemoryBuildCache(BuildCacheSuite):
    @pytest.fixture
    async def database(self):
        return MemoryDatabase()


class TestMemoryContentStore(ContentStoreSuite):
    @pytest.fixture
    async def database(self):
        return MemoryDatabase()

    @pytest.fixture
    def store(self, database):
        return MemoryContentStore(database.blobs(HERE), namespace=HERE)

    @pytest.fixture
    def other(self, store, database):
        return MemoryContentStore(database.blobs(THERE), data=store.bytes, namespace=THERE)

    async def damage(self, store, digest, data):
        if data is None:
            del store.bytes.blobs[digest]
        else:
            store.bytes.blobs[digest] = data
