"""What a sync says of itself: whether anything changed decides whether files are hashed again."""

import os
import stat
from pathlib import Path

import pytest

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


def sync(root: Path, entries: list[Stat], data: bytes = b"data") -> Receiver:
    """A whole exchange; every file has the same bytes."""
    receiver = Receiver(str(root))
    packets = [Packet(type=Packet.STAT, stat=each) for each in entries] + [Packet(type=Packet.STAT)]
    done = receiver.take([each.SerializeToString() for each in packets])
    for number in done.requests:
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
