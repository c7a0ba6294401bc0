"""The in-memory runtime keeps the port's promises."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from support.bundles import process

from lading.core.runtime import ContainerID, Runtime, Task
from lading.testing.memory.runtime import Machine, MemoryRuntime
from lading.testing.runtime import RuntimeSuite, World

pytestmark = pytest.mark.anyio


class MemoryWorld(World):
    runtime = "io.containerd.memory.v1"
    rootfs = ()

    def __init__(self, directory: Path, machine: Machine) -> None:
        self.directory = directory
        self.machine = machine

    def open(self) -> AbstractAsyncContextManager[Runtime]:
        return MemoryRuntime(self.machine)

    def spec(self, id: ContainerID, *args: str, terminal: bool = False) -> dict[str, Any]:
        return {"process": self.process(*args, terminal=terminal)}

    def process(self, *args: str, terminal: bool = False) -> dict[str, Any]:
        return process(*args, terminal=terminal)

    async def kill_shim(self, task: Task) -> None:
        self.machine.kill_shim(task.id)


class TestMemoryRuntime(RuntimeSuite):
    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncGenerator[MemoryWorld]:
        async with Machine() as machine:
            yield MemoryWorld(tmp_path, machine)
