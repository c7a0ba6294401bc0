"""The two image stores, `TargetNaming` and `LocalClassicStore` below the same services, keep the same promises."""

import os

import anyio.lowlevel
import pytest
from support.world import NAMESPACE, World

from lading.content.local import LocalContentStore
from lading.daemon import stores
from lading.daemon.config import Config
from lading.daemon.events import EventBus
from lading.images.classic import ClassicExchange, ClassicImageService
from lading.images.exchange import ImageExchange
from lading.images.service import ImageService
from lading.metadata.database import SqliteDatabase
from lading.testing import images as make
from lading.testing.imagestore import ImageStore, ImageStoreSuite
from lading.testing.memory.remotes import MemoryRegistries
from lading.transfer.service import TransferService

pytestmark = pytest.mark.anyio


class TestContainerdStore(ImageStoreSuite):
    @pytest.fixture
    def store(self):
        world, uses = World(), []

        async def used():
            return uses

        service = ImageService(
            store=world.content,
            records=world.images,
            transfer=world.service,
            fact_rows=world.database.facts(NAMESPACE),
            uses=used,
            bus=world.bus,
            host=make.AMD64,
            collect=lambda: None,
            collected=anyio.lowlevel.checkpoint,
        )
        return ImageStore(
            images=service,
            exchange=ImageExchange(
                service=service, records=world.images, transfer=world.service, registries=world.registries
            ),
            transfer=world.service,
            records=world.images,
            snapshotter=world.snapshotter,
            registries=world.registries,
            single=False,
            uses=uses,
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="overlayfs takes root")
class TestClassicStore(ImageStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path):
        uses, bus, registries = [], EventBus(), MemoryRegistries()

        async def used():
            return uses

        async with SqliteDatabase.open(tmp_path / "lading.db", reserve=0) as database:
            content = LocalContentStore(tmp_path / "content", database.blobs(NAMESPACE), namespace=NAMESPACE)
            leases = database.leases(NAMESPACE)
            classic = await stores.open_classic(
                Config(data_root=tmp_path),
                snapshots=database.snapshots(NAMESPACE, "overlay2"),
                records=database.images(NAMESPACE),
                blobs=content,
                leases=leases,
            )
            transfer = TransferService(
                store=content,
                image_store=classic.records,
                fact_rows=database.facts(NAMESPACE),
                lease_manager=leases,
                snapshotter=classic.snapshotter,
                registries=registries,
                bus=bus,
                host=make.AMD64,
                naming=classic.store,
                packed=False,
            )
            service = ClassicImageService(
                store=content,
                records=classic.records,
                transfer=transfer,
                fact_rows=database.facts(NAMESPACE),
                uses=used,
                bus=bus,
                host=make.AMD64,
                collect=lambda: None,
                collected=anyio.lowlevel.checkpoint,
                classic=classic.store,
            )
            exchange = ClassicExchange(
                service=service,
                records=classic.records,
                transfer=transfer,
                registries=registries,
                classic=classic.store,
            )
            yield ImageStore(
                images=service,
                exchange=exchange,
                transfer=transfer,
                records=classic.records,
                snapshotter=classic.snapshotter,
                registries=registries,
                single=True,
                uses=uses,
            )
            await classic.snapshotter.close()
