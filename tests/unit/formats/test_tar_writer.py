import io
import os
import shutil
import subprocess
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.formats.rawtar import entries, read

from lading.errors import InvalidArgumentError
from lading.formats.tar.entry import Entry, EntryType
from lading.formats.tar.writer import END, header, padding

RAW = "b\udcff\udcfe"


def archive(*members):
    return b"".join(header(entry) + content + padding(entry.size) for entry, content in members) + END


def file(name, content=b"", **fields):
    return Entry(name, EntryType.FILE, size=len(content), real_size=len(content), **fields), content


def bare(entry):
    """Without what depends on the place in the archive."""
    return [getattr(entry, name) for name in entry.__struct_fields__ if name != "offset"]


MEMBERS = [
    file("plain", b"hello", mode=0o4755, uid=1000, gid=1001, mtime=1_700_000_000 * 10**9),
    file("d/" * 60 + "split", b"x" * 513),
    file("n" * 101),
    file("d/" * 90 + "n" * 120),
    file("p" * 156 + "/n"),
    file("é"),
    file(RAW, b"raw"),
    file("big-id", uid=2**32 - 2, gid=8**7),
    file("old", mtime=-1_500_000_000),
    file("fraction", mtime=1_500_000_001),
    file("far", mtime=8**11 * 10**9),
    file("x", xattrs={"user.b": b"\0\n=", "security.capability": b"\x01" * 20, "user." + RAW: b""}),
    (Entry("dir/", EntryType.DIRECTORY, mode=0o1777), b""),
    (Entry("d/" * 55, EntryType.DIRECTORY), b""),
    (Entry("l", EntryType.SYMLINK, "../t"), b""),
    (Entry("ll", EntryType.SYMLINK, "t" * 101), b""),
    (Entry("lr", EntryType.SYMLINK, RAW), b""),
    (Entry("h", EntryType.HARDLINK, "plain"), b""),
    (Entry("c", EntryType.CHAR, devmajor=1, devminor=3), b""),
    (Entry("b", EntryType.BLOCK, devmajor=259, devminor=70000), b""),
    (Entry("p", EntryType.FIFO), b""),
]


def test_what_is_written_is_read():
    found = read(archive(*MEMBERS))
    assert [(bare(entry), content) for entry, content in found] == [
        (bare(entry), content) for entry, content in MEMBERS
    ]


def test_ustar_where_it_fits():
    fits = [len(header(entry)) == 512 for entry, _ in MEMBERS]
    assert [entry.name for (entry, _), fit in zip(MEMBERS, fits, strict=True) if not fit] == [
        "n" * 101, "d/" * 90 + "n" * 120, "p" * 156 + "/n", "é", RAW, "big-id", "old", "fraction", "far", "x", "ll", "lr",
    ]  # fmt: skip


def test_huge_files():
    entry = Entry("f", EntryType.FILE, size=8**11, real_size=8**11)
    assert b"19 size=8589934592\n" in header(entry)


def test_record_lengths_count_their_own_digits():
    for length in range(60, 120):
        entry = Entry("f", EntryType.FILE, xattrs={"a": b"v" * length})
        assert entries(header(entry))[0].xattrs == entry.xattrs


def test_tarfile_reads_it():
    with tarfile.open(fileobj=io.BytesIO(archive(*MEMBERS))) as found:
        for info, (entry, content) in zip(found.getmembers(), MEMBERS, strict=True):
            assert info.name == entry.name.rstrip("/")
            assert (info.linkname, info.mode, info.uid, info.gid) == (
                entry.linkname,
                entry.mode,
                entry.uid,
                entry.gid,
            )
            assert info.mtime == pytest.approx(entry.mtime / 10**9)
            assert (info.devmajor, info.devminor) == (entry.devmajor, entry.devminor)
            reader = found.extractfile(info) if info.isreg() else None
            assert (reader.read() if reader else b"") == content


@pytest.mark.parametrize(
    "entry",
    [
        Entry("", EntryType.FILE),
        Entry("a\0", EntryType.FILE),
        Entry("a", EntryType.SYMLINK, "b\0"),
        Entry("a", EntryType.DIRECTORY, size=1),
        Entry("a", EntryType.FILE, size=-1),
        Entry("a", EntryType.FILE, uid=2**32 - 1),
        Entry("a", EntryType.FILE, gid=-1),
        Entry("a", EntryType.FILE, mode=0o100644),
        Entry("a", EntryType.CHAR, devminor=8**7),
        Entry("a", EntryType.FILE, mtime=2**63 * 10**9),
        Entry("a", EntryType.FILE, sparse=()),
        Entry("a", EntryType.FILE, xattrs={"a=b": b""}),
    ],
)
def test_refused(entry):
    with pytest.raises(InvalidArgumentError):
        header(entry)


NAMES = st.text(st.characters(exclude_characters="\0\n", codec="utf-8"), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(NAMES, min_size=1, max_size=5).map("/".join),
    st.integers(-(2**70), 2**70),
    st.integers(0, 2**32 - 2),
    st.dictionaries(NAMES.filter(lambda name: "=" not in name), st.binary(max_size=300), max_size=3),
)
def test_any_entry_survives(name, mtime, uid, xattrs):
    entry = Entry(name, EntryType.FILE, uid=uid, gid=uid, mtime=mtime, xattrs=xattrs)
    found = entries(header(entry))[0]
    assert bare(found) == bare(entry)


# Real programs


def tool(*arguments, stdin=b"", cwd=None):
    if shutil.which(arguments[0]) is None:
        pytest.skip(f"{arguments[0]} is not installed")
    return subprocess.run(arguments, input=stdin, capture_output=True, check=True, cwd=cwd).stdout


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "t"
    (root / "dir").mkdir(parents=True)
    (root / "f").write_bytes(b"hello")
    os.utime(root / "f", ns=(0, 1_234_567_890_123_456_789))
    (root / ("n" * 120)).write_bytes(b"long")
    (root / "s").symlink_to("dir/../f" + "x" * 110)
    os.link(root / "f", root / "h")
    os.mkfifo(root / "p")
    (root / "dir" / "é").write_bytes(b"")
    with (root / "sparse").open("wb") as holes:
        for at in range(60):
            holes.seek(at * 200_000)
            holes.write(b"z" * 5000)
        holes.truncate(13_000_000)
    try:
        os.setxattr(root / "f", "user.key", b"\0v\n")
    except OSError:
        pytest.skip("no user xattrs here")
    return root


@pytest.mark.parametrize(
    "command",
    [
        ("tar", "--format=gnu", "-cSf-"),
        ("tar", "--format=pax", "--xattrs", "-cSf-"),
        ("tar", "--format=pax", "--sparse-version=0.0", "-cSf-"),
        ("tar", "--format=pax", "--sparse-version=0.1", "-cSf-"),
        ("tar", "--format=oldgnu", "-cf-"),
        ("bsdtar", "--format=pax", "-cf-"),
        ("bsdtar", "--format=gnutar", "-cf-"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("step", [10_007, 1 << 20])
def test_archives_of_real_programs(tree, command, step):
    found = {
        entry.name: (entry, content) for entry, content in read(tool(*command, "t", cwd=tree.parent), step)
    }
    assert len(found) == 9
    holding = {name: content for name, (entry, content) in found.items() if entry.type is EntryType.FILE}
    assert all((tree.parent / name).read_bytes() == content for name, content in holding.items())
    assert {"t/sparse", "t/" + "n" * 120, "t/dir/é"} <= holding.keys()
    assert found["t/s"][0].linkname == os.readlink(tree / "s")
    assert found["t/p"][0].type is EntryType.FIFO
    first = next(
        entry for name, (entry, _) in found.items() if name in ("t/f", "t/h") and entry.type is EntryType.FILE
    )
    assert first.mtime // 10**9 == 1_234_567_890
    if "--format=pax" in command:
        assert first.mtime == 1_234_567_890_123_456_789
    if "--xattrs" in command or command[:2] == ("bsdtar", "--format=pax"):
        assert first.xattrs == {"user.key": b"\0v\n"}


@pytest.mark.parametrize("command", [("tar", "--xattrs", "-xf-"), ("bsdtar", "-xpf-")], ids=" ".join)
def test_real_programs_unpack_it(tmp_path, command):
    members = [
        file("f", b"hello", mode=0o640, mtime=1_234_567_890_123_456_789, xattrs={"user.key": b"value"}),
        file("d/" * 60 + "n" * 120, b"deep"),
        (Entry("s", EntryType.SYMLINK, "t" * 120), b""),
        (Entry("h", EntryType.HARDLINK, "f"), b""),
    ]
    tool(*command, stdin=archive(*members), cwd=tmp_path)
    status = (tmp_path / "f").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns, status.st_nlink) == (
        0o640,
        1_234_567_890_123_456_789,
        2,
    )
    assert (tmp_path / ("d/" * 60 + "n" * 120)).read_bytes() == b"deep"
    assert os.readlink(tmp_path / "s") == "t" * 120
    assert os.getxattr(tmp_path / "f", "user.key") == b"value"


def test_global_headers_are_ignored_as_bsdtar_ignores_them(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "global"}
    ) as made:
        made.addfile(tarfile.TarInfo("own"))
    assert tool("bsdtar", "-tf-", stdin=buffer.getvalue()) == b"own\n"
    assert [entry.name for entry in entries(buffer.getvalue())] == ["own"]
