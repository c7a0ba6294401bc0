"""`LocalContentStore` keeps the promises of its port."""

import os

import pytest

from lading.content.local import LocalContentStore
from lading.metadata.database import SqliteDatabase
from lading.testing.content import HERE, THERE, ContentStoreSuite


class TestLocalContentStore(ContentStoreSuite):
    @pytest.fixture
    async def database(self, tmp_path):
        async with SqliteDatabase.open(tmp_path / "lading.db", reserve=1 << 20) as database:
            yield database

    @pytest.fixture
    def store(self, tmp_path, database):
        return LocalContentStore(tmp_path / "content", database.blobs(HERE), namespace=HERE)

    @pytest.fixture
    def other(self, store, database):
        return LocalContentStore(store.files, database.blobs(THERE), namespace=THERE)

    async def damage(self, store, digest, data):
        path = store.files.blob(digest)
        os.unlink(path)
        if data is not None:
            path.write_bytes(data)
