"""Hostile root file systems: every attack has a twin that works."""

import os
from pathlib import Path

import pytest

from lading.containers import users
from lading.containers.rootfs import Root, inside
from lading.core.mounts import Mount
from lading.errors import FailedPreconditionError, InvalidArgumentError

PASSWD = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/home/alice:\n42:x:7:7::/:\nbroken\nhuge:x:99999999999:0::/:\n"
GROUP = "root:x:0:\nusers:x:1001:\nwheel:x:10:alice,bob\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text(PASSWD)
    (tmp_path / "root/etc/group").write_text(GROUP)
    (tmp_path / "secret").write_text("evil:x:0:0::/:\n")
    return tmp_path / "root"


def resolve(tree: Path, user: str, *groups: str) -> users.User:
    with Root.at(tree) as root:
        return users.resolve(root, user, groups)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("", 0, 0, (0,)),
        ("alice", 1000, 1001, (1001, 10)),
        ("1000", 1000, 1001, (1001, 10)),
        ("alice:wheel", 1000, 10, (10,)),
        ("alice:77", 1000, 77, (77,)),
        ("5000", 5000, 0, (0,)),
        ("42", 42, 0, (0,)),
    ],
)
def test_users(tree: Path, user: str, uid: int, gid: int, groups: tuple[int, ...]):
    found = resolve(tree, user)
    assert (found.uid, found.gid, found.groups) == (uid, gid, groups)


def test_added_groups(tree: Path):
    assert resolve(tree, "alice", "root", "9").groups == (1001, 10, 0, 9)


@pytest.mark.parametrize(
    "user", ["4294967296", "2147483648", "-1", "+0x1", "nobody", "alice:nogroup", "huge", "٣"]
)
def test_refused_users(tree: Path, user: str):
    with pytest.raises(InvalidArgumentError):
        resolve(tree, user)


def test_passwd_that_links_out_of_the_tree_is_read_inside(tree: Path):
    (tree / "etc/passwd").unlink()
    (tree / "etc/passwd").symlink_to("../../secret")
    with pytest.raises(InvalidArgumentError, match="unable to find user evil"):
        resolve(tree, "evil")
    (tree / "secret").write_text("twin:x:8:8::/:\n")
    assert resolve(tree, "twin").uid == 8


def test_passwd_that_is_a_fifo_does_not_block(tree: Path):
    (tree / "etc/passwd").unlink()
    os.mkfifo(tree / "etc/passwd")
    with pytest.raises(InvalidArgumentError, match="not a regular file"):
        resolve(tree, "alice")


def test_huge_passwd_is_refused_unread(tree: Path):
    os.truncate(tree / "etc/passwd", users.FILE_LIMIT + 1)
    with pytest.raises(InvalidArgumentError, match="over"):
        resolve(tree, "0")
    os.truncate(tree / "etc/passwd", users.FILE_LIMIT)
    assert resolve(tree, "alice").uid == 1000


def test_working_directory_is_made_inside(tree: Path):
    (tree / "out").symlink_to("../../..")
    (tree / "proc-link").symlink_to("/proc/self/fd")
    with Root.at(tree) as root:
        root.make_directory("/a/b/../c")
        root.make_directory("/out/made")
    assert (tree / "a/c").is_dir()
    assert (tree / "made").is_dir()
    assert not (tree.parent / "made").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/passwd/x", "/dangling/x", "/loop"])
def test_working_directory_that_cannot_be(tree: Path, path: str):
    (tree / "dangling").symlink_to("nowhere")
    (tree / "loop").symlink_to("loop")
    with Root.at(tree) as root, pytest.raises(InvalidArgumentError):
        root.make_directory(path)


def test_magic_links_are_not_followed(tree: Path):
    (tree / "fd").symlink_to("/proc/self/root/etc")
    with Root.at(tree) as root, pytest.raises(OSError, match="No such file"):
        root.open("/fd", os.O_PATH | os.O_DIRECTORY)


def test_mounts_are_seen_inside_only_and_leave_nothing(tree: Path, tmp_path: Path):
    at = tmp_path / "at"
    at.mkdir()
    mounts = [Mount(type="bind", source=str(tree), options=("rbind", "rw"))]
    assert inside(mounts, at, lambda root: root.read("/etc/passwd", limit=1000)) == PASSWD.encode()
    assert list(at.iterdir()) == []
    assert str(at) not in Path("/proc/self/mountinfo").read_text()


def test_read_only_bind_is_read_only(tree: Path, tmp_path: Path):
    at = tmp_path / "at"
    at.mkdir()
    mounts = [Mount(type="bind", source=str(tree), options=("rbind", "ro"))]
    with pytest.raises(FailedPreconditionError, match="Read-only"):
        inside(mounts, at, lambda root: root.make_directory("/new"))
    assert not (tree / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts an overlay")
def test_layers_whose_names_are_longer_in_bytes_than_in_characters(tmp_path: Path):
    place = tmp_path / ("é" * 60)
    count = 3900 // len(f"{place}/00:")
    layers = [place / f"{number:02}" for number in range(count)]
    for layer in layers:
        layer.mkdir(parents=True)
        (layer / f"f{layer.name}").touch()
    options = f"lowerdir={':'.join(map(str, layers))}"
    assert len(options) < 4000
    assert len(os.fsencode(options)) > 4096
    at = tmp_path / "at"
    at.mkdir()

    def names(root: Root) -> int:
        fd = root.open("/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            return len(os.listdir(fd))
        finally:
            os.close(fd)

    assert inside([Mount(type="overlay", source="overlay", options=(options,))], at, names) == count
