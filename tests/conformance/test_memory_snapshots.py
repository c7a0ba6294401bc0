"""`MemorySnapshotter` keeps the promises of its port that need no mount."""

import pytest

from lading.core.metadata import Namespace
from lading.formats.tar.entry import EntryType
from lading.testing.memory.metadata import MemoryDatabase
from lading.testing.memory.snapshots import MemorySnapshotter
from lading.testing.snapshots import SnapshotterSuite

pytestmark = pytest.mark.anyio


def describe(node):
    if node.type is EntryType.DIRECTORY:
        return f"d {node.mode:o}"
    if node.type is EntryType.SYMLINK:
        return f"l {node.target}"
    return f"f {node.mode:o} {node.content.decode()}"


@pytest.mark.parametrize("parallel", [True, False])
class TestMemorySnapshotter(SnapshotterSuite):
    @pytest.fixture
    def snapshotter(self, parallel):
        rows = MemoryDatabase().snapshots(Namespace("default"), "memory")
        return MemorySnapshotter(rows, parallel=parallel)

    async def tree(self, snapshotter, name):
        return {path: describe(node) for path, node in (await snapshotter.tree(name)).items()}
