"""What a sync says of itself: whether anything changed decides whether files are hashed again."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.core.session import Synced, SyncMemory
from lading.errors import InvalidArgumentError
from lading.formats.buildkit import filemode
from lading.formats.buildkit._pb.fsutil_pb2 import Packet, Stat
from lading.sessions.receiving import Receiver

TIME = 1_700_000_000_000_000_000


def entry(path: str, mode: int = stat.S_IFREG | 0o644, size: int = 4, **fields: object) -> Stat:
    return Stat(
        path=path,
        mode=filemode.from_unix(mode),
        uid=os.getuid(),
        gid=os.getgid(),
        size=size,
        mod_time=fields.pop("mod_time", TIME),  # type: ignore[arg-type]
        **fields,  # type: ignore[arg-type]
    )


DIRECTORY = entry("d", stat.S_IFDIR | 0o755, 0)
LINK = entry("e", stat.S_IFLNK | 0o777, 0, linkname="d/f")
TREE = [DIRECTORY, entry("d/f"), LINK]


def sync(
    root: Path, entries: list[Stat], data: bytes = b"data", memory: SyncMemory | None = None, batch: int = 100
) -> Receiver:
    """A whole exchange; every file has the same bytes."""
    receiver = Receiver(str(root), memory=memory)
    packets = [Packet(type=Packet.STAT, stat=each) for each in entries] + [Packet(type=Packet.STAT)]
    raw = [each.SerializeToString() for each in packets]
    requests: list[int] = []
    for start in range(0, len(raw), batch):
        done = receiver.take(raw[start : start + batch])
        requests += done.requests
    for number in requests:
        sent = [Packet(type=Packet.DATA, id=number, data=data), Packet(type=Packet.DATA, id=number)]
        done = receiver.take([each.SerializeToString() for each in sent])
    assert done.complete
    receiver.close()
    return receiver


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    assert sync(tmp_path, TREE).synced.changed
    again = sync(tmp_path, TREE).synced
    assert not again.changed
    assert again.transferred_files == 0
    assert (again.files, again.bytes) == (2, 4)


def test_the_time_of_a_directory_is_no_change_and_is_kept(tmp_path: Path) -> None:
    sync(tmp_path, TREE)
    later = [entry("d", stat.S_IFDIR | 0o755, 0, mod_time=TIME + 10**9), *TREE[1:]]
    assert not sync(tmp_path, later).synced.changed
    assert (tmp_path / "d").stat().st_mtime_ns == TIME + 10**9


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(TREE[:2], id="one less"),
        pytest.param([DIRECTORY, LINK], id="a file less"),
        pytest.param([*TREE, entry("g")], id="one more"),
        pytest.param([DIRECTORY, entry("d/f", mod_time=TIME + 1), LINK], id="another time"),
        pytest.param([DIRECTORY, entry("d/f", stat.S_IFREG | 0o600), LINK], id="another mode"),
        pytest.param([entry("d", stat.S_IFDIR | 0o700, 0), *TREE[1:]], id="another mode of a directory"),
        pytest.param([entry("d"), LINK], id="a file for a directory"),
        pytest.param(
            [DIRECTORY, entry("d/f"), entry("e", stat.S_IFLNK | 0o777, 0, linkname="x")], id="another link"
        ),
        pytest.param([*TREE, entry("g", linkname="d/f")], id="a hard link"),
    ],
)
def test_everything_else_is_a_change(tmp_path: Path, other: list[Stat]) -> None:
    sync(tmp_path, TREE)
    assert sync(tmp_path, other).synced.changed


def test_devices_are_made_and_not_opened(tmp_path: Path) -> None:
    null = entry("null", stat.S_IFCHR | 0o666, 0, devmajor=1, devminor=3)
    disk = entry("disk", stat.S_IFBLK | 0o640, 0, devmajor=7, devminor=300)
    sync(tmp_path, [disk, null])
    found = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert (found["null"].st_mode, found["null"].st_rdev) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (found["disk"].st_mode, found["disk"].st_rdev) == (stat.S_IFBLK | 0o640, os.makedev(7, 300))
    assert not sync(tmp_path, [disk, null]).synced.changed
    assert sync(
        tmp_path, [disk, entry("null", stat.S_IFCHR | 0o666, 0, devmajor=1, devminor=5)]
    ).synced.changed
    assert (tmp_path / "null").stat().st_rdev == os.makedev(1, 5)


@pytest.mark.parametrize(
    ("major", "minor", "message"),
    [
        (0, 0, "is a device that overlayfs reads as a deletion"),
        (-1, 3, "is a device that there cannot be"),
        (1, 1 << 20, "is a device that there cannot be"),
        (1 << 40, 3, "is a device that there cannot be"),
    ],
)
def test_devices_that_are_refused(tmp_path: Path, major: int, minor: int, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        sync(tmp_path, [entry("x", stat.S_IFCHR | 0o666, 0, devmajor=major, devminor=minor)])


# With a memory of the sync before.

NAMES = st.sampled_from(["a", "a-b", "b", "ü"])
TIMES = st.sampled_from([TIME, TIME + 1])


@st.composite
def trees(draw: st.DrawFn, above: str = "", depth: int = 0) -> list[Stat]:
    """Some entries below a directory, in the order of a walk."""
    found: list[Stat] = []
    for name in sorted(draw(st.sets(NAMES, max_size=3)), key=os.fsencode):
        path, time = f"{above}{name}", draw(TIMES)
        kind = draw(st.sampled_from(["file", "directory", "link", "hard link", "fifo"]))
        files = [each.path for each in found if stat.S_ISREG(filemode.to_unix(each.mode) or 0)]
        if kind == "directory" and depth < 2:
            mode = stat.S_IFDIR | draw(st.sampled_from([0o755, 0o700]))
            found += [entry(path, mode, 0, mod_time=time), *draw(trees(f"{path}/", depth + 1))]
        elif kind == "link":
            target = draw(st.sampled_from(["x", "y"]))
            found.append(entry(path, stat.S_IFLNK | 0o777, 0, linkname=target, mod_time=time))
        elif kind == "fifo":
            found.append(entry(path, stat.S_IFIFO | 0o600, 0, mod_time=time))
        elif kind == "hard link" and files:
            found.append(entry(path, linkname=files[0]))
        else:
            found.append(entry(path, mod_time=time))
    return found


def shown(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a client can see of a tree."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = (path.read_bytes(), status.st_nlink)
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, content)
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(trees(), min_size=2, max_size=4), st.integers(1, 5))
def test_a_memory_of_the_last_sync_makes_no_difference(walks: list[list[Stat]], batch: int) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        memory = SyncMemory()
        for walk in [*walks, walks[-1]]:
            with_it = sync(Path(one), walk, memory=memory, batch=batch).synced
            without = sync(Path(other), walk, batch=batch).synced
            assert (with_it.files, with_it.bytes) == (without.files, without.bytes)
            assert with_it.transferred_files <= without.transferred_files
            assert shown(Path(one)) == shown(Path(other))
        # Two names of one file are taken for changed, unless it is known that they are not.
        assert with_it.changed <= without.changed
        assert not with_it.changed


def test_what_is_as_it_was_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SyncMemory()
    sync(tmp_path, TREE, memory=memory)
    looks: list[object] = []
    look = os.stat
    monkeypatch.setattr(os, "stat", lambda *words, **more: looks.append(words) or look(*words, **more))
    assert sync(tmp_path, TREE, memory=memory).synced == Synced(
        files=2, bytes=4, transferred_files=0, transferred_bytes=0, changed=False
    )
    assert not looks
    assert sync(tmp_path, [*TREE[:2], entry("e"), entry("g")], memory=memory).synced.transferred_files == 2
    assert [words[0] for words in looks] == ["e"]


def test_a_sync_that_was_cut_short_is_not_remembered(tmp_path: Path) -> None:
    memory = SyncMemory()
    sync(tmp_path, TREE, memory=memory)
    receiver = Receiver(str(tmp_path), memory=memory)
    other = Packet(type=Packet.STAT, stat=entry("d", size=9))
    receiver.take([other.SerializeToString()])
    receiver.close()
    assert not memory.entries
    sync(tmp_path, TREE, memory=memory)
    assert (tmp_path / "d/f").read_bytes() == b"data"


def test_no_tree_at_all_is_not_taken_for_a_known_one(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    memory = SyncMemory()
    assert sync(tmp_path, [], memory=memory).synced.changed
    assert not list(tmp_path.iterdir())
