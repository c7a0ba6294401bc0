"""Three opinions on random pairs of layers: overlayfs as the kernel shows it, the native copy, and the tree in memory."""

import os
import stat
import tempfile
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.filesystems import tmpfs

from lading.core.metadata import Namespace
from lading.core.snapshots import SnapshotKey
from lading.errors import InvalidArgumentError
from lading.formats.tar.entry import EntryType
from lading.snapshots.native import NativeSnapshotter
from lading.snapshots.overlay import OverlaySnapshotter
from lading.testing.layers import device, directory, file, hardlink, opaque, symlink, tar, unpack, whiteout
from lading.testing.memory.metadata import MemoryDatabase
from lading.testing.memory.snapshots import MemorySnapshotter
from lading.testing.snapshots import inside

PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
MODES = st.sampled_from([0o600, 0o644, 0o755, 0o2711])
TARGETS = st.one_of(PATHS, PATHS.map("/{}".format), PATHS.map("../{}".format), st.just(".."), st.just("/"))
MEMBERS = st.one_of(
    st.builds(
        lambda path, data, mode: file(path, data, mode=mode, uid=mode),
        PATHS,
        st.sampled_from([b"", b"x", b"yy"]),
        MODES,
    ),
    st.builds(lambda path, mode: directory(path, mode=mode), PATHS, MODES),
    st.builds(symlink, PATHS, TARGETS),
    st.builds(hardlink, PATHS, PATHS),
    st.builds(whiteout, PATHS),
    st.builds(opaque, st.one_of(PATHS, st.just(""))),
    st.builds(lambda path: device(path, EntryType.CHAR, 0, 0), PATHS),
    st.builds(lambda path: device(path, EntryType.FIFO, 0, 0), PATHS),
)
LAYERS = st.lists(st.lists(MEMBERS, max_size=7), min_size=1, max_size=3)
KINDS = {
    stat.S_IFREG: EntryType.FILE,
    stat.S_IFDIR: EntryType.DIRECTORY,
    stat.S_IFLNK: EntryType.SYMLINK,
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFCHR: EntryType.CHAR,
}


def on_disk(root: Path):
    found = {}
    inodes = {}
    for top, directories, files in os.walk(root):
        for name in [*directories, *files]:
            place = Path(top, name)
            path = str(place.relative_to(root))
            status = place.lstat()
            kind = KINDS[stat.S_IFMT(status.st_mode)]
            content = place.read_bytes() if kind is EntryType.FILE else b""
            target = os.readlink(place) if kind is EntryType.SYMLINK else ""
            mode = 0 if kind is EntryType.SYMLINK else stat.S_IMODE(status.st_mode)
            found[path] = (kind, mode, status.st_uid, content, target)
            inodes.setdefault(status.st_ino, set()).add(path)
    return found, {frozenset(paths) for paths in inodes.values()}


def in_memory(tree):
    found = {}
    inodes = {}
    for path, node in tree.items():
        mode = 0 if node.type is EntryType.SYMLINK else node.mode
        found[path] = (node.type, mode, node.uid, bytes(node.content), node.target)
        inodes.setdefault(id(node), set()).add(path)
    return found, {frozenset(paths) for paths in inodes.values()}


async def attempt(snapshotter, archives):
    """The top layer's name; nothing if a layer was refused."""
    name = None
    for number, archive in enumerate(archives):
        try:
            name = await unpack(snapshotter, f"layer-{number}", name, archive)
        except InvalidArgumentError:
            return None
    return name


async def compare(disk, layers):
    archives = [tar(*members) for members in layers]
    database = MemoryDatabase()
    rows = {kind: database.snapshots(Namespace("n"), kind) for kind in ("overlay", "native", "memory")}
    memory = MemorySnapshotter(rows["memory"])
    overlay = OverlaySnapshotter(disk / "overlay", rows["overlay"], boot_id="b")
    native = NativeSnapshotter(disk / "native", rows["native"], boot_id="b")
    expected = await attempt(memory, archives)
    for snapshotter in (overlay, native):
        name = await attempt(snapshotter, archives)
        assert name == expected
        if name is not None:
            mounts = await snapshotter.view(SnapshotKey("look"), name)
            assert await inside(mounts, on_disk) == in_memory(await memory.tree(name))
            await snapshotter.remove("look")
        for info in [info async for info in snapshotter.walk()][::-1]:
            await snapshotter.remove(info.key)
        await snapshotter.close()


@pytest.fixture
def disk(tmp_path):
    with tmpfs(tmp_path / "disk") as disk:
        yield disk


QUICK = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@QUICK
@given(layers=LAYERS)
@example(layers=[[directory("b", mode=0o600)], [directory("b/a", mode=0o700), whiteout("b")]])
@example(layers=[[directory("b", mode=0o600)], [whiteout("b"), directory("b/a", mode=0o700)]])
def test_snapshotters_agree(disk, layers):
    with tempfile.TemporaryDirectory(dir=disk) as place:
        anyio.run(compare, Path(place), layers)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(QUICK, max_examples=20_000, derandomize=False)
@given(layers=LAYERS)
def test_snapshotters_agree_at_length(disk, layers):
    with tempfile.TemporaryDirectory(dir=disk) as place:
        anyio.run(compare, Path(place), layers)
