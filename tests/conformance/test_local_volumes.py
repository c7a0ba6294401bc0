"""`LocalVolumes` keeps the promises of its port, and cleans up after kills."""

import os
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lading.core.metadata import Namespace
from lading.core.volumes import Volumes
from lading.kit import linux
from lading.testing.memory.metadata import MemoryDatabase
from lading.testing.volumes import VolumesSuite
from lading.volumes.local import open_volumes

pytestmark = pytest.mark.anyio


class LocalWorld:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = MemoryDatabase()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Volumes]:
        async with open_volumes(self.database.volumes(Namespace("moby")), self.root) as volumes:
            yield volumes

    def mounted(self) -> list[str]:
        return linux.mount_points(str(self.root))

    def entries(self) -> set[str]:
        return set(os.listdir(self.root))


class TestLocalVolumes(VolumesSuite):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Generator[LocalWorld]:
        world = LocalWorld(tmp_path / "volumes")
        yield world
        for point in world.mounted():
            subprocess.run(["umount", "-l", point], check=False)

    async def test_filling_with_nothing_changes_no_mode(self, world: LocalWorld) -> None:
        """The daemon's umask shows its files to nobody; a volume at a path that the image has not stays open to all."""
        async with world.open() as volumes:
            await volumes.create("data")
            umask = os.umask(0o077)
            try:
                assert await volumes.fill("data", lambda _: None)
            finally:
                os.umask(umask)
            assert os.stat(volumes.path("data")).st_mode & 0o7777 == 0o755

    async def test_what_a_kill_left_is_cleaned_up(self, world: LocalWorld) -> None:
        async with world.open() as volumes:
            await volumes.create("data")
            (Path(volumes.path("data")) / "file").write_text("words")
        for place in (
            "unknown/_data",
            ".removing-1/_data",
            "data/_filling",
        ):  # never acknowledged, removed, half filled
            (world.root / place).mkdir(parents=True)
            (world.root / place / "file").write_text("half")
        async with world.open() as volumes:
            await volumes.recover({})
            assert world.entries() == {"data"}
            assert os.listdir(world.root / "data") == ["_data"]
            assert (Path(volumes.path("data")) / "file").read_text() == "words"
            await volumes.create("unknown")
            assert os.listdir(volumes.path("unknown")) == []

    async def test_links_in_a_volume_lead_nowhere_when_it_is_removed(
        self, world: LocalWorld, tmp_path: Path
    ) -> None:
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious/file").write_text("words")
        async with world.open() as volumes:
            await volumes.create("data")
            Path(volumes.path("data"), "link").symlink_to(tmp_path / "precious")
            await volumes.remove("data")
        assert (tmp_path / "precious/file").read_text() == "words"
