"""Trees that are walked, copied and removed while somebody is in them, or that are deeper than a path is long."""

import os
import shutil
import stat

import pytest
from support.filesystems import tmpfs

from lading.snapshots import diff, trees
from lading.snapshots.diff import InexpressibleError


@pytest.fixture
def disk(tmp_path):
    with tmpfs(tmp_path / "disk") as disk:
        yield disk


def make_deep(top, depth):
    """A chain of directories that no single path can name."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 100, dir_fd=fd)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_deeper_than_a_path(disk):
    (disk / "source").mkdir()
    (disk / "target").mkdir()
    make_deep(disk / "source", 120)
    with trees.opened(disk / "source") as source, trees.opened(disk / "target") as target:
        trees.copy(source, target)
        assert trees.usage(target) == trees.usage(source)
        assert trees.usage(source).inodes == 122
    with trees.opened(disk) as fd:
        for name in ("source", "target", "missing"):
            trees.remove(fd, name)
    assert os.listdir(disk) == []


def test_directories_that_vanish_are_passed_over(disk):
    for name in ("a/x", "b/x", "c/x"):
        (disk / name).mkdir(parents=True)
    seen = []
    with trees.opened(disk) as fd:
        for path, _, _ in trees.walk(fd):
            seen.append(path)
            if path == "a":
                shutil.rmtree(disk / "b")
                shutil.rmtree(disk / "c")
                (disk / "c").symlink_to("a")
    assert seen == ["", "a", "a/x"]


def test_files_that_vanish_are_not_in_the_diff(disk):
    for name in ("a", "b", "c"):
        (disk / name).write_text(name)
    found = []
    for difference in diff.of_upper(str(disk), []):
        found.append(difference.path)
        (disk / "b").unlink(missing_ok=True)
    assert found == ["a", "c"]
    assert b"".join(diff.archive(diff.of_upper(str(disk), []), "x")).count(b"ustar") == 4  # with PAX headers


def test_a_copy_is_like_its_source(disk):
    source, target = disk / "source", disk / "target"
    for top in (source, target):
        top.mkdir()
    (source / "d").mkdir(mode=0o2750)
    with open(source / "d/holes", "wb") as holes:
        holes.truncate(1 << 24)
        os.pwrite(holes.fileno(), b"data", 1 << 20)
    os.link(source / "d/holes", source / "hard")
    os.symlink("nowhere", source / "link")
    os.mkfifo(source / "pipe", 0o622)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(source / "d", "trusted.x", b"1")
    os.chown(source / "link", 5, 6, follow_symlinks=False)
    os.utime(source / "d", ns=(1, 2))
    with trees.opened(source) as a, trees.opened(target) as b:
        trees.copy(a, b)
        assert trees.usage(b).inodes == trees.usage(a).inodes
    assert list(diff.of_trees(str(target), str(source))) == []
    assert (target / "hard").stat().st_ino == (target / "d/holes").stat().st_ino
    assert (target / "d/holes").stat().st_blocks < 64
    assert (target / "d").stat().st_mtime_ns == 2


def test_what_no_layer_can_say(disk):
    (disk / ".wh.x").touch()
    with pytest.raises(InexpressibleError, match=r"\.wh\.x"):
        list(diff.archive(diff.of_upper(str(disk), []), "cannot read"))


def test_a_file_that_shrinks_is_padded(disk):
    (disk / "a").write_bytes(b"x" * (3 << 20))
    stream = diff.archive(diff.of_upper(str(disk), []), "cannot read")
    parts = [next(stream)]
    os.truncate(disk / "a", 1 << 20)
    archive = b"".join([*parts, *stream])
    assert len(archive) % 512 == 0
    assert archive.count(b"x" * 1024) == 1024
    stream.close()
