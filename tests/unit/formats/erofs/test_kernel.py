"""The kernel shows the tree that GNU tar makes of the same archive."""

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.erofs import mounted, newer, newer_directory, tree

from lading.formats.erofs import layout
from lading.formats.erofs.reader import Image
from lading.formats.erofs.superblock import checksum
from lading.formats.erofs.tree import Device, Extent, Node
from lading.formats.erofs.writer import ImageWriter
from lading.formats.tar.parser import TarParser

ACL = bytes.fromhex(
    "02000000 01000600ffffffff 02000400e8030000 04000400ffffffff 10000400ffffffff 20000400ffffffff"
)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def archive(path: Path) -> bytes:
    """An archive with everything in it, made by tarfile."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: object) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))

        add("d", tarfile.DIRTYPE, mode=0o2755, uid=70000, gid=5, mtime=1234567890)
        for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 100_001, 1_500_000):
            add(
                f"d/{size}",
                content=os.urandom(size),
                mode=0o4711,
                uid=size % 70001,
                gid=size,
                mtime=1.5e9 + 0.123456789,
            )
        for number in range(700):
            add(f"d/many-{number}-{'x' * (number % 99)}", content=b"%d" % number, mtime=number)
        add(
            "d/hard",
            tarfile.LNKTYPE,
            linkname="d/4097",
            mode=0o4711,
            uid=4097,
            gid=4097,
            mtime=1.5e9 + 0.123456789,
        )
        for length in (1, 100, 400, 470, 480, 513, 1500, 4000):
            add(f"link{length}", tarfile.SYMTYPE, linkname="t" * length, mode=0o777, mtime=7)
        add("c", tarfile.CHRTYPE, devmajor=1, devminor=300, mode=0o620, gid=5)
        add("b", tarfile.BLKTYPE, devmajor=259, devminor=70000, mode=0o660)
        add("p", tarfile.FIFOTYPE, mode=0o600)
        add("é\u20ac/ü", tarfile.DIRTYPE, mode=0o1777, mtime=2**31 + 5)
    return path.read_bytes()


def nodes(tar: Path) -> Node:
    root = Node(0o40755, children={})
    kinds = {
        tarfile.REGTYPE: stat.S_IFREG,
        tarfile.DIRTYPE: stat.S_IFDIR,
        tarfile.SYMTYPE: stat.S_IFLNK,
        tarfile.CHRTYPE: stat.S_IFCHR,
        tarfile.BLKTYPE: stat.S_IFBLK,
        tarfile.FIFOTYPE: stat.S_IFIFO,
    }
    offsets = {entry.name.rstrip("/"): entry for entry in TarParser().feed_entries(tar.read_bytes())}
    with tarfile.open(tar) as members:
        for info in members:
            parent = root
            *above, base = info.name.split("/")
            for part in above:
                parent = parent.children.setdefault(part, Node(0o40755, children={}))
            if info.type == tarfile.LNKTYPE:
                parent.children[base] = root.children["d"].children[info.linkname[2:]]
                continue
            entry = offsets[info.name]
            assert entry.offset == info.offset_data
            parent.children[base] = Node(
                kinds[info.type] | info.mode,
                info.uid,
                info.gid,
                entry.mtime,
                info.size,
                1 if info.size else 0,
                info.offset_data // 512,
                target=info.linkname,
                rdev=os.makedev(info.devmajor, info.devminor) if info.ischr() or info.isblk() else 0,
                children={} if info.isdir() else None,
            )
    return root


@pytest.mark.parametrize("options", [{}, {"compact": False}, {"flat": False}])
def test_mounted_tree_is_what_tar_extracts(tmp_path, options):
    content = archive(tmp_path / "a.tar")
    writer = ImageWriter(nodes(tmp_path / "a.tar"), [Device(blocks=len(content) // 512)], **options)
    extracted = tmp_path / "extracted"
    extracted.mkdir()
    with mounted(tmp_path, b"".join(writer.chunks()), content) as point:
        subprocess.run(
            ["tar", "--numeric-owner", "-xpf", "a.tar", "-C", "extracted"], cwd=tmp_path, check=True
        )
        expected, found = tree(extracted), tree(point)
        for implied in (".", "é€"):  # nobody described it
            expected.pop(implied)
            found.pop(implied)
        assert found == expected


def test_attributes_whiteouts_and_holes(tmp_path):
    shared = {"user.shared": b"s" * 300, "trusted.a": b""}
    hole = Node(
        0o100644,
        size=5 * 4096 + 7,
        extents=(Extent(4096, 4096, 1, 0), Extent(3 * 4096, 4096, 2, 8), Extent(5 * 4096, 7, 2, 0)),
    )
    acl = {"system.posix_acl_access": ACL}
    root = Node(
        0o40755,
        children={
            "acl": Node(0o100664, xattrs=acl),
            "default": Node(0o40775, children={}, xattrs=acl | {"system.posix_acl_default": ACL}),
            "ping": Node(0o100755, xattrs={"security.capability": CAPABILITY}),
            "whiteout": Node(0o20000),
            "opaque": Node(0o40755, children={}, xattrs={"trusted.overlay.opaque": b"y"}),
            "one": Node(0o100644, xattrs=shared),
            "two": Node(0o40755, xattrs=shared, children={}),
            "link": Node(0o120777, target="x", xattrs={"trusted.a": b"", "security.b": b"c"}),
            "big": Node(0o100644, xattrs={"user.big": b"b" * 60_000}),
            "hole": hole,
        },
    )
    first, second = b"1" * 4096 + b"-" * 4096, b"2" * 4096 + b"3" * 4096
    image = b"".join(ImageWriter(root, [Device(blocks=16), Device(blocks=16)]).chunks())
    with mounted(tmp_path, image, first, second) as point:
        found = tree(point)
    assert found["acl"][7] == acl
    assert found["default"][7] == acl | {"system.posix_acl_default": ACL}
    assert found["ping"][7] == {"security.capability": CAPABILITY}
    assert stat.S_ISCHR(found["whiteout"][0])
    assert found["whiteout"][4] == 0
    assert found["opaque"][7] == {"trusted.overlay.opaque": b"y"}
    assert found["one"][7] == found["two"][7] == shared
    assert found["link"][7] == {"trusted.a": b"", "security.b": b"c"}
    assert found["big"][7] == {"user.big": b"b" * 60_000}
    zero = bytes(4096)
    assert found["hole"][8] == zero + b"1" * 4096 + zero + b"3" * 4096 + zero + b"2" * 7


def test_times_are_those_that_the_kernel_shows(tmp_path):
    root = Node(0o40755, mtime=7 * 10**9, children={"extended": Node(0o100644, mtime=3 * 10**9 + 1)})
    data = bytearray(b"".join(ImageWriter(root).chunks()))
    at = Image(data).lookup("extended").body - layout.EXTENDED.size
    for form, place, changes in (
        (layout.SUPER, layout.SUPER_OFFSET, {7: 2**64 - 100, 24: 5000}),  # epoch and build_time
        (layout.EXTENDED, at, {9: 2**64 - 5}),
    ):
        fields = list(form.unpack_from(data, place))
        for index, value in changes.items():
            fields[index] = value
        form.pack_into(data, place, *fields)
    place = layout.SUPER_OFFSET + layout.CHECKSUM_OFFSET
    data[place : place + 4] = checksum(data, 512).to_bytes(4, "little")
    image = Image(data)
    with mounted(tmp_path, data) as point:
        for name in ("", "extended"):
            assert image.lookup(name).mtime == (point / name).stat().st_mtime_ns
    assert image.lookup("extended").mtime == -5 * 10**9 + 1


def test_many_devices(tmp_path):
    count = 40  # mount(2) takes one page of options
    root = Node(0o40755, children={str(n): Node(0o100644, size=512, device=n + 1) for n in range(count)})
    root.children["all"] = Node(
        0o100644, size=512 * count, extents=tuple(Extent(512 * n, 512, n + 1, 0) for n in range(count))
    )
    image = b"".join(ImageWriter(root, [Device(blocks=1)] * count, compact=False).chunks())
    contents = [b"%511d\n" % n for n in range(count)]
    with mounted(tmp_path, image, *contents) as point:
        assert (point / "all").read_bytes() == b"".join(contents)
        assert all((point / str(n)).read_bytes() == contents[n] for n in range(count))


def test_reads_what_mkfs_makes():
    with newer_directory() as place:
        content = archive(place / "a.tar")
        done = newer("mkfs.erofs", "--tar=i", place / "image", place / "a.tar")
        assert done.returncode == 0, done.stderr
        image = Image((place / "image").read_bytes())
    found = dict(image.walk())
    ours = nodes_of(content)
    assert {path for path in found if path} == set(ours) | {"é€"}
    for path, (mode, size, data) in ours.items():
        inode = found[path]
        assert inode.mode & 0o7777 == mode
        assert size is None or inode.size == size
        if stat.S_ISREG(inode.mode) and size:
            (extent,) = image.extents(inode)
            assert content[extent.block * 512 :][:size] == data
        elif stat.S_ISLNK(inode.mode):
            assert image.readlink(inode).encode() == data


def nodes_of(content: bytes) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for info in tar:
            if info.isdir():
                size, data = None, b""
            elif info.issym():
                size, data = len(info.linkname), info.linkname.encode()
            elif info.islnk():
                size, data = found[info.linkname][1:]
            else:
                data = tar.extractfile(info).read() if info.isfile() else b""
                size = len(data)
            found[info.name] = (info.mode, size, data)
    return found
