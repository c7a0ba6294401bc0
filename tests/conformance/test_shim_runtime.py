"""Real shims keep the port's promises: Debian's containerd-shim-runc-v2 with runc and with crun, and a newer one."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from support.shims import ShimWorld

from lading.testing.runtime import RuntimeSuite

pytestmark = pytest.mark.anyio


class TestRunc(RuntimeSuite):
    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncGenerator[ShimWorld]:
        world = ShimWorld(tmp_path, options={"BinaryName": "runc"})
        try:
            yield world
        finally:
            await world.clean()
        assert world.leftovers() == []
