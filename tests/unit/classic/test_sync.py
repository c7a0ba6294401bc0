"""What a power cut leaves of the classic store's trees is found at the next start, and goes; see `tests/crash/test_power_cut.py`."""

import os

import pytest
from support.power_cut_child import opened

from lading.core.snapshots import SnapshotKey, SnapshotName
from lading.errors import LadingError

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def start(root, boot="boot"):
    return opened(root, "overlay2", "strict", "both", boot)


def rows_of(parts):
    return parts.database.snapshots(parts.maintenance.namespace, "overlay2")


async def left(root):
    """What is there after a start."""
    async with start(root, "next") as parts:
        await parts.snapshotter.settle()
    return sorted(os.listdir(root / "overlay2")), os.listdir(root / "overlay2/l")


async def test_a_view_without_a_row(root):
    """The row's end was on the disk, or its beginning was not; Docker's files know nothing of views."""
    async with start(root) as parts:
        await parts.snapshotter.view(SnapshotKey("look"), None)
        await rows_of(parts).delete("look")
    assert len(os.listdir(root / "overlay2")) == 2
    assert await left(root) == (["l"], [])


async def test_a_tree_whose_row_went_first(root):
    """The row's end was on the disk, and that the tree was out of the way was not."""
    async with start(root) as parts:
        await parts.snapshotter.prepare(SnapshotKey("box"), None)
        await parts.snapshotter.commit(SnapshotName("made"), SnapshotKey("box"))
        await rows_of(parts).delete("made")
    assert len(os.listdir(root / "overlay2")) == 2
    assert await left(root) == (["l"], [])


async def test_what_was_removed_is_forgotten_when_its_tree_is_out_of_the_way(root, monkeypatch):
    async with start(root) as parts:
        rows, trees = rows_of(parts), parts.snapshotter
        for key in ("one", "two"):
            await trees.prepare(SnapshotKey(f"box-{key}"), None)
            await trees.commit(SnapshotName(key), SnapshotKey(f"box-{key}"))
        await trees.remove("one")
        assert await rows.removed() == set()

        def fail(directory):
            raise LadingError(f"cannot remove {directory}")

        with monkeypatch.context() as patched:
            patched.setattr(trees._directories, "doom_named", fail)
            with pytest.raises(LadingError):
                await trees.remove("two")
        assert [key for key, _ in await rows.removed()] == ["two"]
    assert await left(root) == (["l"], [])


async def test_what_was_begun_and_nothing_stands_for(root):
    async with start(root):
        pass
    place = root / "overlay2"
    for name in ("new-" + "a" * 64, ".probe-1"):
        (place / name).mkdir()
    (place / ("new-" + "a" * 64) / "link").write_text("A" * 26)
    (place / "l" / ("B" * 26)).symlink_to(f"../{'b' * 64}/diff")
    # dockerd's, as far as anybody knows
    (place / ("c" * 64)).mkdir()
    (place / "l" / ("C" * 26)).symlink_to(f"../{'c' * 64}/diff")
    assert await left(root) == (["c" * 64, "l"], ["C" * 26])


async def test_what_is_used_stays(root):
    async with start(root) as parts:
        await parts.snapshotter.prepare(SnapshotKey("box"), None)
    trees, links = await left(root)
    assert (len(trees), len(links)) == (2, 1)
