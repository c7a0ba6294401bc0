"""The in-memory volumes keep the port's promises."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lading.core.volumes import Volumes
from lading.testing.memory.volumes import MemoryVolumes, Shelf
from lading.testing.volumes import VolumesSuite

pytestmark = pytest.mark.anyio


class MemoryWorld:
    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.shelf = Shelf(root)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Volumes]:
        yield MemoryVolumes(self.shelf)

    def mounted(self) -> list[str]:
        return sorted(self.shelf.mounted)

    def entries(self) -> set[str]:
        return set(os.listdir(self.shelf.root))


class TestMemoryVolumes(VolumesSuite):
    @pytest.fixture
    def world(self, tmp_path: Path) -> MemoryWorld:
        return MemoryWorld(tmp_path / "shelf")
