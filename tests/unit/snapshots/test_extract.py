"""Hostile layers (hostile-input.md T1-T26) and their honest twins. A canary stands outside of every root."""

import io
import os
import resource
import stat
import struct
import subprocess
import tarfile
import threading

import pytest
from support.filesystems import open_descriptors, tmpfs

from lading.errors import InvalidArgumentError, LadingError, ResourceExhaustedError
from lading.formats.tar.entry import DEFAULT_LIMITS, Entry, EntryType
from lading.kit import linux
from lading.snapshots import extract, open_directories, trees
from lading.snapshots.extract import Extractor, LayerBombError
from lading.testing.layers import TIME, device, directory, file, hardlink, opaque, symlink, tar, whiteout


@pytest.fixture
def sandbox(tmp_path):
    with tmpfs(tmp_path / "disk") as disk:
        (disk / "root").mkdir(mode=0o700)
        (disk / "secret").mkdir(mode=0o711)
        (disk / "secret" / "passwd").write_text("canary")
        os.utime(disk / "secret" / "passwd", ns=(1, 1))
        before = describe(disk / "secret")
        descriptors = open_descriptors()
        yield disk
        assert open_descriptors() == descriptors
        assert describe(disk / "secret") == before
        assert sorted(os.listdir(disk)) == ["root", "secret"]


def describe(top):
    found = {}
    for place in [top, *sorted(top.rglob("*"))]:
        status = place.lstat()
        found[str(place.relative_to(top))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            os.listxattr(place, follow_symlinks=False),
            place.read_bytes() if stat.S_ISREG(status.st_mode) else b"",
        )
    return found


def unpack(sandbox, *members, budget=1 << 30, lowest=False, limits=DEFAULT_LIMITS, chunk=1 << 20):
    """Extract members, or the bytes of an archive; what came of it."""
    archive = members[0] if isinstance(members[0], bytes) else tar(*members)
    extractor = Extractor(sandbox / "root", budget=budget, lowest=lowest, limits=limits)
    try:
        for start in range(0, len(archive), chunk):
            extractor.write(archive[start : start + chunk])
        return extractor.finish()
    finally:
        extractor.close()


def is_whiteout(path):
    return trees.is_whiteout(path.lstat())


@pytest.mark.parametrize(
    "name", ["/etc/x", "//etc/x", "./../etc/x", "a/../../etc/x", "../../../../etc/x", "./etc//x"]
)
def test_names_are_rooted(sandbox, name):  # T1
    unpack(sandbox, file(name, b"data"))
    assert (sandbox / "root/etc/x").read_text() == "data"


@pytest.mark.parametrize("target", ["/secret", "../secret", "../../../../../../secret", "{outside}"])
def test_links_lead_nowhere_but_into_the_root(sandbox, target):  # T2
    outside = str(sandbox / "secret")
    unpack(
        sandbox,
        symlink("link", target.format(outside=outside)),
        file("link/passwd", b"inside"),
        directory("link/sub"),
        symlink("link/again", "passwd"),
        hardlink("link/hard", "link/passwd"),
        device("link/pipe", EntryType.FIFO, 0, 0),
    )
    assert not (sandbox / "secret/sub").exists()
    inside = sandbox / "root" / (outside.lstrip("/") if "{" in target else "secret")
    assert (inside / "passwd").read_text() == "inside"
    assert (inside / "hard").read_text() == "inside"


def test_chains_and_loops_of_links(sandbox):  # T2
    unpack(sandbox, symlink("a", "b/../.."), symlink("b", "../.."), file("a/b/a/b/x", b"1"))
    assert (sandbox / "root/x").read_text() == "1"
    with pytest.raises(InvalidArgumentError):
        unpack(sandbox, symlink("c", "d"), symlink("d", "c"), file("c/x"))


def test_magic_links_of_the_host(sandbox):  # T2
    unpack(
        sandbox,
        symlink("p", "/proc/self/root"),
        file("p/x", b"1"),
        symlink("q", "/proc/self/cwd"),
        file("q/y"),
    )
    assert (sandbox / "root/proc/self/root/x").read_text() == "1"
    assert (sandbox / "root/proc/self/cwd/y").exists()


def test_absolute_links_inside_the_image_work(sandbox):  # T3
    unpack(
        sandbox,
        directory("run", mode=0o711),
        directory("var"),
        symlink("var/run", "/run"),
        file("var/run/pid", b"7"),
    )
    assert (sandbox / "root/run/pid").read_text() == "7"
    assert os.readlink(sandbox / "root/var/run") == "/run"
    assert stat.S_IMODE((sandbox / "root/run").stat().st_mode) == 0o711
    assert (sandbox / "root/run").stat().st_mtime_ns == TIME


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../etc/passwd", "./etc/passwd", "etc/passwd", "l/passwd"]
)
def test_hard_links_are_clamped(sandbox, target):  # T4
    unpack(sandbox, file("etc/passwd", b"ours"), symlink("l", "/etc"), hardlink("copy", target))
    copy = sandbox / "root/copy"
    assert copy.read_text() == "ours"
    assert copy.stat().st_ino == (sandbox / "root/etc/passwd").stat().st_ino


def test_a_hard_link_to_a_link_is_the_link(sandbox):  # T4
    unpack(
        sandbox,
        symlink("link", str(sandbox / "secret/passwd")),
        hardlink("hard", "link"),
        hardlink("hard", "hard"),
    )
    assert os.readlink(sandbox / "root/hard") == str(sandbox / "secret/passwd")


@pytest.mark.parametrize(
    "members",
    [
        [hardlink("a", "missing")],
        [hardlink("a", "b"), file("b")],
        [hardlink("a", "d/../../secret/passwd")],
        [directory("d"), hardlink("a", "d")],
        [whiteout("w"), hardlink("a", "w")],
        [file("f"), hardlink("a", "f/x")],
    ],
)
def test_hard_links_to_nothing(sandbox, members):  # T5
    with pytest.raises(InvalidArgumentError):
        unpack(sandbox, *members)


def test_attributes_of_links_stay_with_them(sandbox):  # T6
    outside = str(sandbox / "secret/passwd")
    unpack(
        sandbox,
        Entry(
            name="l",
            type=EntryType.SYMLINK,
            linkname=outside,
            mode=0o4777,
            uid=7,
            gid=8,
            mtime=TIME,
            xattrs={"trusted.x": b"1"},
        ),
        Entry(
            name="h",
            type=EntryType.HARDLINK,
            linkname="l",
            mode=0o4777,
            uid=9,
            gid=9,
            mtime=5,
            xattrs={"trusted.y": b"2"},
        ),
    )
    link = sandbox / "root/l"
    assert (link.lstat().st_uid, link.lstat().st_gid, link.lstat().st_mtime_ns) == (9, 9, 5)
    assert os.getxattr(link, "trusted.x", follow_symlinks=False) == b"1"
    assert os.getxattr(link, "trusted.y", follow_symlinks=False) == b"2"


def test_devices(sandbox):  # T7
    unpack(
        sandbox,
        device("dev/null", EntryType.CHAR, 1, 3, mode=0o666),
        device("dev/sda", EntryType.BLOCK, 8, 0, mode=0o640),
        device("dev/pipe", EntryType.FIFO, 0, 0, mode=0o622),
        file("dev/null", b"not written to a device"),
        device("dev/tty", EntryType.CHAR, 5, 0),
    )
    dev = sandbox / "root/dev"
    assert (dev / "null").read_bytes() == b"not written to a device"
    assert (dev / "sda").stat().st_rdev == os.makedev(8, 0)
    assert stat.S_IMODE((dev / "sda").stat().st_mode) == 0o640
    assert stat.S_ISFIFO((dev / "pipe").stat().st_mode)
    assert stat.S_IMODE((dev / "pipe").stat().st_mode) == 0o622
    assert (dev / "tty").stat().st_mtime_ns == TIME


def test_overlayfs_is_not_told_anything(sandbox):  # T8
    xattrs = {
        "trusted.overlay.opaque": b"y",
        "trusted.overlay.redirect": b"/etc",
        "trusted.overlay.overlay.opaque": b"y",
        "user.overlay.metacopy": b"",
        "trusted.mine": b"kept",
    }
    result = unpack(
        sandbox,
        directory("d", xattrs=xattrs),
        file("f", b"x", xattrs=xattrs),
        device("gone", EntryType.CHAR, 0, 0),
    )
    assert result.dropped == 8
    for name in ("d", "f"):
        assert os.listxattr(sandbox / "root" / name) == ["trusted.mine"]
    assert is_whiteout(sandbox / "root/gone")
    assert result.whiteouts == 1


@pytest.mark.parametrize("name", ["d/.wh.", "d/.wh..", "d/.wh...", ".wh.", ".wh.a/b"])
def test_whiteouts_of_nothing(sandbox, name):  # T9
    with pytest.raises(InvalidArgumentError):
        unpack(sandbox, file(name))


def test_reserved_names_are_ignored(sandbox):  # T9
    unpack(
        sandbox,
        directory(".wh..wh.plnk"),
        file(".wh..wh.plnk/1.2", b"data"),
        file(".wh..wh.aufs", b"data"),
        file("a", b"1"),
    )
    assert os.listdir(sandbox / "root") == ["a"]


def test_opaque_in_any_order(sandbox):  # T10
    result = unpack(
        sandbox,
        file("d/before"),
        opaque("d"),
        file("d/after"),
        whiteout("d/after"),
        whiteout("e"),
        file("e/x"),
    )
    assert sorted(os.listdir(sandbox / "root/d")) == ["after", "before"]
    assert os.getxattr(sandbox / "root/d", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(sandbox / "root/e", "trusted.overlay.opaque") == b"y"
    assert result.implied == ("d",)


def test_a_whiteout_outlives_the_file_in_its_place(sandbox):  # T10, T12
    unpack(
        sandbox,
        whiteout("x"),
        file("x"),
        directory("x"),
        file("y"),
        whiteout("y"),
        directory("y"),
        directory("z"),
        opaque("z"),
        file("z"),
        directory("z"),
    )
    for name in "xyz":
        assert os.getxattr(sandbox / "root" / name, "trusted.overlay.opaque") == b"y"


def test_nothing_is_below_the_lowest_layer(sandbox):
    result = unpack(
        sandbox, whiteout("a/x"), opaque("a"), device("w", EntryType.CHAR, 0, 0), opaque(""), lowest=True
    )
    assert (os.listdir(sandbox / "root"), os.listdir(sandbox / "root/a")) == (["a"], [])
    assert (result.whiteouts, result.opaque_root) == (0, False)


def test_whiteouts_through_links(sandbox):  # T11
    unpack(
        sandbox,
        file("etc/keep"),
        symlink("in", "/etc"),
        symlink("out", str(sandbox / "secret")),
        whiteout("in/gone"),
        whiteout("out/passwd"),
        whiteout("in"),
    )
    assert is_whiteout(sandbox / "root/etc/gone")
    assert is_whiteout(sandbox / "root" / str(sandbox / "secret/passwd").lstrip("/"))
    assert os.readlink(sandbox / "root/in") == "/etc"


def test_the_last_of_many_wins(sandbox):  # T12
    unpack(
        sandbox,
        file("a", b"1"),
        file("a", b"2"),
        directory("d", mode=0o700),
        file("d/x", b"1"),
        directory("d", mode=0o751),
        file("swap"),
        directory("swap"),
        file("swap/inner", b"1"),
        symlink("swap", "../secret"),
        file("swap/passwd", b"inside"),
        directory("swap", mode=0o750),
        file("swap/y"),
        hardlink("a", "d/x"),
    )
    root = sandbox / "root"
    assert (root / "a").read_text() == "1"
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o751
    assert os.listdir(root / "d") == ["x"]
    assert os.listdir(root / "swap") == ["y"]
    assert os.listdir(root / "secret") == ["passwd"]


def test_replaced_trees_are_removed_without_following(sandbox):  # T12
    result = unpack(
        sandbox, directory("d"), symlink("d/out", str(sandbox / "secret")), file("d/e/f/g"), file("d", b"now")
    )
    assert (sandbox / "root/d").read_text() == "now"
    assert (result.implied, result.usage.inodes) == ((), 2)


def test_below_a_file(sandbox):  # T12
    with pytest.raises(InvalidArgumentError, match="below a file"):
        unpack(sandbox, file("a"), file("a/b"))


def test_the_root_is_not_described(sandbox):  # T13
    unpack(
        sandbox,
        directory(".", mode=0o700, uid=5, xattrs={"trusted.x": b"1"}),
        directory("", mode=0o1777),
        file("./a"),
    )
    status = (sandbox / "root").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, os.listxattr(sandbox / "root")) == (0o755, 0, [])


def sparse_archive(size):
    stream = io.BytesIO()
    header = tarfile.TarInfo("s")
    header.size = 4
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = b"S"
    number = b"\x80" + size.to_bytes(11, "big")
    offset = b"\x80" + (size - 4).to_bytes(11, "big")
    block[386:410] = offset + b"00000000004\0"
    block[483:495] = number
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    stream.write(bytes(block) + b"data".ljust(512, b"\0") + bytes(1024))
    return stream.getvalue()


def test_sparse_files_count_with_their_holes(sandbox):  # T14
    unpack(sandbox, sparse_archive(1 << 29))
    status = (sandbox / "root/s").stat()
    assert status.st_size == 1 << 29
    assert status.st_blocks < 64
    with open(sandbox / "root/s", "rb") as content:
        content.seek(-4, os.SEEK_END)
        assert content.read() == b"data"
    for size in (2 << 30, 1 << 62):
        with pytest.raises(ResourceExhaustedError):
            unpack(sandbox, sparse_archive(size))


def test_bombs(sandbox):  # T15
    assert extract.budget(1000, 1 << 40) == 1 << 30
    assert extract.budget(1 << 30, 1 << 40) == 200 << 30
    assert extract.budget(1 << 30, 1 << 34) == 1 << 34
    assert extract.budget(0, 1 << 34) == 1 << 34
    with pytest.raises(LayerBombError):
        unpack(sandbox, file("a", b"x" * 5000), budget=5000)
    with pytest.raises(LayerBombError):
        unpack(sandbox, tar(file("b")) + bytes(100_000), budget=50_000)
    unpack(sandbox, tar(file("c")) + bytes(100_000), budget=200_000)


@pytest.mark.parametrize(
    "name",
    ["x" * 256, "/".join(["d" * 200] * 21), "a\nb", "/".join(["d"] * 1025)],
    ids=["long", "path", "newline", "deep"],
)
def test_names_that_no_tree_holds(sandbox, name):  # T19, T24
    with pytest.raises((InvalidArgumentError, ResourceExhaustedError)):
        unpack(sandbox, file(name))


def test_names_are_byte_exact(sandbox):  # T19
    odd = os.fsdecode(b"\xff\xfe caf\xc3\xa9 \x01")
    unpack(sandbox, file(odd, b"1"), file("/".join(["e" * 200] * 19), b"2"), file("n" * 255, b"3"))
    assert sorted(os.listdir(os.fsencode(sandbox / "root"))) == sorted(
        [os.fsencode(odd), b"e" * 200, b"n" * 255]
    )


def capability(revision=2):
    magic = {2: 0x02000001, 3: 0x03000001}[revision]
    return struct.pack("<5I", magic, 1 << 13, 0, 0, 0) + (struct.pack("<I", 0) if revision == 3 else b"")


def test_extended_attributes(sandbox):  # T21
    result = unpack(
        sandbox,
        file(
            "ping", b"x", mode=0o755, uid=3, xattrs={"security.capability": capability(), "user.a": b"\0\xff"}
        ),
        file("nsping", b"x", xattrs={"security.capability": capability(3)}),
        file("labelled", xattrs={"security.selinux": b"system_u:object_r:etc_t:s0"}),
        symlink("l", "x", xattrs={"user.not_on_links": b"1"}),
        directory("d", xattrs={"trusted.d": b"1"}),
    )
    root = sandbox / "root"
    assert os.getxattr(root / "ping", "security.capability") == capability()
    assert os.getxattr(root / "ping", "user.a") == b"\0\xff"
    assert os.listxattr(root / "nsping") == ["security.capability"]
    assert os.listxattr(root / "labelled") == []
    assert os.getxattr(root / "d", "trusted.d") == b"1"
    assert result.dropped == 2
    with pytest.raises(InvalidArgumentError):
        unpack(sandbox, file("bad", xattrs={"security.capability": b"?"}))


def test_a_hard_link_keeps_capabilities(sandbox):  # T21
    value = capability()
    unpack(sandbox, file("a", b"x", mode=0o755, xattrs={"security.capability": value}), hardlink("b", "a"))
    assert os.getxattr(sandbox / "root/a", "security.capability") == value
    assert stat.S_IMODE((sandbox / "root/a").stat().st_mode) == 0o644  # the last entry wins, as in containerd


def test_special_modes(sandbox):  # T22
    unpack(
        sandbox,
        file("su", b"x", mode=0o4755, uid=5, gid=6),
        directory("shared", mode=0o2775, gid=50),
        file("shared/a", b"x"),
        directory("shared/sub"),
        directory("tmp", mode=0o1777),
        *[file(f"many/{n}/x") for n in range(100)],
        file("shared/late", b"x"),
        file("tmp/late"),
    )
    root = sandbox / "root"
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o4755
    assert ((root / "su").stat().st_uid, (root / "su").stat().st_gid) == (5, 6)
    assert stat.S_IMODE((root / "shared").stat().st_mode) == 0o2775
    for name in ("a", "late", "sub"):
        assert (root / "shared" / name).stat().st_gid == 0
    assert stat.S_IMODE((root / "shared/sub").stat().st_mode) == 0o755
    for name in ("shared", "tmp"):
        assert (root / name).stat().st_mtime_ns == TIME


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, who) for tag, perm, who in entries)


def test_default_acls_are_not_handed_down(sandbox):
    none = 0xFFFFFFFF
    value = acl((1, 7, none), (2, 7, 1234), (4, 5, none), (0x10, 7, none), (0x20, 0, none))
    unpack(
        sandbox,
        directory("d", xattrs={"system.posix_acl_default": value}),
        file("d/a", b"x"),
        directory("d/e"),
        device("d/p", EntryType.FIFO, 0, 0, mode=0o644),
        *[file(f"many/{n}/x") for n in range(100)],
        file("d/late", mode=0o600),
        file("d/implied/x"),
    )
    root = sandbox / "root/d"
    assert os.getxattr(root, "system.posix_acl_default") == value
    for name in ("a", "e", "p", "late", "implied"):
        assert os.listxattr(root / name) == []
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o644


@pytest.mark.parametrize("uid", [2**32 - 1, 2**32, 2**40])
def test_owners_out_of_range(sandbox, uid):  # T23
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a")
        member.uid = uid
        archive.addfile(member)
    with pytest.raises(InvalidArgumentError):
        unpack(sandbox, stream.getvalue())


def test_the_highest_owner(sandbox):  # T23
    unpack(sandbox, file("a", uid=2**32 - 2, gid=2**32 - 2))
    assert (sandbox / "root/a").stat().st_uid == 2**32 - 2


def test_many_directories_need_few_descriptors_and_little_memory(sandbox):  # T24
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        deep = "/".join(f"{n}" for n in range(700))
        members = [directory(f"d{n:04}", mtime=n) for n in range(3000)]
        again = [file(f"d{n:04}/x") for n in range(3000)]
        result = unpack(
            sandbox, *members, *again, file(f"{deep}/x"), file("d0000/y"), file("0", b"all of it is replaced")
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [(sandbox / f"root/d{n:04}").stat().st_mtime_ns for n in (0, 1, 2999)] == [0, 1, 2999]
    assert (result.implied, result.usage.inodes) == ((), 6003)
    with pytest.raises(ResourceExhaustedError):
        unpack(sandbox, *[file(str(n)) for n in range(4)], limits=type(DEFAULT_LIMITS)(entries=3))


def test_marks_are_bounded(sandbox, monkeypatch):  # T24
    monkeypatch.setattr(open_directories, "MARKS_MAX", 10)
    unpack(sandbox, *[file(f"a{n}/x") for n in range(10)])
    with pytest.raises(ResourceExhaustedError):
        unpack(sandbox, *[file(f"b{n}/x") for n in range(11)])
    with pytest.raises(ResourceExhaustedError):
        unpack(sandbox, *[member for n in range(11) for member in (file(f"c{n}"), whiteout(f"c{n}"))])


@pytest.mark.parametrize("cut", [100, 512, 1024, 1600, 2500])
def test_truncated(sandbox, cut):  # T25
    archive = tar(file("a", b"x" * 1000))
    with pytest.raises(InvalidArgumentError):
        unpack(sandbox, archive[:cut])


def test_without_the_end_of_the_archive(sandbox):  # T25
    unpack(sandbox, tar(file("a", b"x" * 1000))[:-1024])
    assert len((sandbox / "root/a").read_bytes()) == 1000


def test_components_swapped_meanwhile(sandbox):  # T26
    """Somebody with a hand in the tree exchanges a directory for a link to the canary, again and again."""
    root = sandbox / "root"
    (root / "evil").symlink_to(sandbox / "secret")
    stop = threading.Event()
    swaps = 0

    def swap():
        nonlocal swaps
        libc = linux._libc
        with trees.opened(root) as fd:
            while not stop.is_set():
                libc.renameat2(fd, b"d", fd, b"evil", 2)  # RENAME_EXCHANGE
                swaps += 1

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        for attempt in range(60):
            members = [directory("d")]
            for n in range(20):
                members += [
                    file(f"d/passwd{n}", b"x", mode=0o4777),
                    whiteout(f"d/{n}"),
                    directory(f"d/s{n}"),
                    symlink(f"d/l{n}", "x"),
                ]
                members += [file(f"other{m}/x") for m in range(70)] if n == 10 and attempt % 10 == 0 else []
            try:
                unpack(sandbox, *members, hardlink("d/h", "d/passwd0"), file("d", b"x"))
            except LadingError:
                continue  # a swap came between: refused is fine, outside is not
    finally:
        stop.set()
        racer.join()
    assert swaps > 100
    assert sorted(os.listdir(sandbox / "secret")) == ["passwd"]


def test_a_full_disk(tmp_path):
    with tmpfs(tmp_path / "small", "size=256k") as disk:
        (disk / "root").mkdir()
        with pytest.raises(ResourceExhaustedError, match=r"cannot extract 'big'"):
            unpack(disk, file("big", b"x" * 500_000))


def test_usage_is_what_is_allocated(sandbox):
    result = unpack(
        sandbox,
        *[file(f"a/{n}", b"x" * n * 1000) for n in range(20)],
        hardlink("h", "a/19"),
        file("a/1", b""),
        symlink("s", "t" * 2000),
        directory("gone"),
        file("gone/x", b"x" * 9999),
        file("gone"),
        whiteout("w"),
        *[file(f"many/{n}/x") for n in range(100)],
        file("a/again"),
    )
    with trees.opened(sandbox / "root") as fd:
        assert result.usage == trees.usage(fd)


def rich_source(top):
    script = """
    umask 022
    mkdir -p usr/bin etc/sub/deep var/empty 'odd name' dev
    echo '#!/bin/sh' > usr/bin/tool; chmod 4755 usr/bin/tool; ln usr/bin/tool usr/bin/hard
    ln -s tool usr/bin/soft; ln -s /etc usr/etc; ln -s ../../etc/passwd etc/sub/rel
    printf 'a:b\\n' > etc/passwd; chown 12:34 etc/passwd; chmod 640 etc/passwd; : > etc/empty
    head -c 300000 /dev/zero > var/zeros; seq 1 40000 > var/numbers
    chmod 1777 var/empty; chmod 2750 etc/sub; chown 100000:200000 etc/sub
    mknod dev/null c 1 3; mknod dev/loop b 7 0; mkfifo dev/pipe; echo x > 'odd name/caf\u00e9'
    touch -h -d @1500000000.123456789 usr/bin/soft etc/passwd; touch -d @1600000000.5 etc var/numbers etc/sub/deep
    """
    subprocess.run(["/bin/sh", "-euc", script], cwd=top, check=True)
    os.setxattr(top / "usr/bin/tool", "security.capability", capability())
    os.setxattr(top / "etc/passwd", "user.note", b"v\0")
    os.setxattr(top / "etc/sub", "trusted.dir", b"d")
    os.utime(top / "usr/bin/tool", ns=(5, 1_400_000_000_000_000_001))


@pytest.mark.parametrize("form", ["posix", "gnu"])
def test_the_same_tree_as_gnu_tar(tmp_path, form):
    with tmpfs(tmp_path / "disk") as disk:
        for name in ("source", "root", "gnu"):
            (disk / name).mkdir()
        rich_source(disk / "source")
        options = [f"--format={form}", "--sort=name"] + (
            ["--xattrs", "--xattrs-include=*"] if form == "posix" else []
        )
        archive = subprocess.run(
            ["tar", *options, "-C", disk / "source", "-cf", "-", "."], check=True, capture_output=True
        ).stdout
        unpack(disk, archive, chunk=10_000)
        subprocess.run(
            [
                "tar",
                "--xattrs",
                "--xattrs-include=*",
                "--numeric-owner",
                "--same-owner",
                "-p",
                "-C",
                disk / "gnu",
                "-xf",
                "-",
            ],
            input=archive,
            check=True,
        )
        for name in ("root", "gnu"):
            (disk / name).chmod(0o755)
            os.utime(disk / name, ns=(0, 0))
        ours = describe(disk / "root")
        assert ours == describe(disk / "gnu")
        assert len(ours) == 23
        assert {p.stat().st_nlink for p in (disk / "root/usr/bin").iterdir() if p.name == "hard"} == {2}
        devices = {p.name: p.stat().st_rdev for p in (disk / "root/dev").iterdir()}
        assert devices == {"null": os.makedev(1, 3), "loop": os.makedev(7, 0), "pipe": 0}
        for link in ("usr/bin/soft", "usr/etc", "etc/sub/rel"):
            assert os.readlink(disk / "root" / link) == os.readlink(disk / "gnu" / link)
