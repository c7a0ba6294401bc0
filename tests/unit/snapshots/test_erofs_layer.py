"""The tree in memory is the tree that the extractor makes of the same stream, and what one refuses the other refuses."""

import io
import os
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.filesystems import tmpfs

from lading.errors import InvalidArgumentError, LadingError, ResourceExhaustedError
from lading.formats.tar.entry import Entry, EntryType, Limits
from lading.snapshots import acl, erofs_layer
from lading.snapshots.erofs_layer import Directory, LayerBuilder, children
from lading.snapshots.extract import Extractor, LayerBombError
from lading.testing.layers import TIME, device, directory, file, hardlink, opaque, symlink, tar, whiteout

ACL = bytes.fromhex(
    "02000000 01000600ffffffff 02000400e8030000 04000400ffffffff 10000400ffffffff 20000400ffffffff"
)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
NO_TIME = -1
"""Of directories that nobody described, which are as old as their making."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    if os.geteuid():
        pytest.skip("owners and devices take root")
    with tmpfs(tmp_path_factory.mktemp("layers") / "disk") as found:
        yield found


def feed(extractor, archive, chunk=700):
    try:
        for start in range(0, len(archive), chunk):
            extractor.write(archive[start : start + chunk])
        return extractor.finish()
    finally:
        extractor.close()


def by_extractor(disk, archive, lowest=False):
    place = Path(tempfile.mkdtemp(dir=disk))
    try:
        result = feed(Extractor(place, budget=1 << 30, lowest=lowest), archive)
        found, first = {}, {}
        for path in everything(place):
            relative = "" if path == place else str(path.relative_to(place))
            status = path.lstat()
            described = relative and relative not in result.implied
            regular = stat.S_ISREG(status.st_mode)
            found[relative] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                when(status.st_mtime_ns)
                if described and not is_mark(status.st_mode, status.st_rdev)
                else NO_TIME,
                status.st_rdev,
                first.setdefault(status.st_ino, relative) if not stat.S_ISDIR(status.st_mode) else "",
                {
                    name: os.getxattr(path, name, follow_symlinks=False)
                    for name in os.listxattr(path, follow_symlinks=False)
                },
                path.read_bytes() if regular else os.readlink(path) if path.is_symlink() else "",
            )
        return regroup(found), result.implied, result.opaque_root
    finally:
        shutil.rmtree(place)


def everything(place):
    yield place
    for above, directories, files in os.walk(place):
        yield from (Path(above, name) for name in directories + files)


def when(time):
    return time if 0 < time <= TIME else NO_TIME  # undescribed directories are as old as the test, or of 1970


def is_mark(mode, rdev):
    return stat.S_ISCHR(mode) and not rdev


def by_builder(disk, archive, lowest=False, limits=erofs_layer.LIMITS):
    place = Path(tempfile.mkdtemp(dir=disk))
    try:
        result = feed(LayerBuilder(place, budget=1 << 30, lowest=lowest, limits=limits), archive)
        devices = [(place / erofs_layer.DATA).read_bytes()]
        assert len(devices[0]) == result.data
        if result.side:
            devices.append((place / erofs_layer.SIDE).read_bytes())
            assert len(devices[1]) == result.side
        found = {}

        def visit(path, node):
            described = path and path not in result.implied
            content = node.target
            if stat.S_ISREG(node.mode):
                content = devices[node.device - 1][node.block * 512 :][: node.size]
                assert len(content) == node.size
            found[path] = (
                node.mode,
                node.uid,
                node.gid,
                when(node.mtime) if described and not is_mark(node.mode, node.rdev) else NO_TIME,
                node.rdev,
                "" if isinstance(node, Directory) else str(id(node)),
                {name: value for name, value in node.xattrs.items() if name != "trusted.overlay.origin"},
                content,
            )
            if isinstance(node, Directory):
                for name, child in children(node).items():
                    visit(f"{path}/{name}" if path else name, child)

        visit("", result.root)
        return regroup(found), result.implied, result.opaque_root
    finally:
        shutil.rmtree(place)


def regroup(found):
    """Hard links by the smallest path of their file; whiteouts below what is opaque are as good as none."""
    for path in [path for path, value in found.items() if is_mark(value[0], value[4])]:
        above = path.rpartition("/")[0]
        if "trusted.overlay.opaque" in found[above][6]:
            del found[path]
    groups = {}
    for path in sorted(found):
        if found[path][5] and not is_mark(found[path][0], found[path][4]):
            groups.setdefault(found[path][5], path)
    return {path: (*value[:5], groups.get(value[5], ""), *value[6:]) for path, value in found.items()}


def outcome(function, *args, **options):
    try:
        return function(*args, **options)
    except LadingError as exc:
        return next(kind for kind in (InvalidArgumentError, ResourceExhaustedError) if isinstance(exc, kind))


parts = st.sampled_from(["a", "b", "l", "d", ".", "..", "m"])
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
xattrs = st.sampled_from(
    [None] * 6
    + [
        {"user.a": b"1"},
        {"trusted.overlay.opaque": b"y", "security.selinux": b"s", "user.b": b""},
        {"security.capability": CAPABILITY},
        {acl.ACCESS: ACL},
        {acl.ACCESS: ACL[:4]},
        {acl.ACCESS: b""},
        {"trusted.x": b"y"},
    ]
)
members = st.one_of(
    st.builds(
        file,
        paths,
        st.binary(max_size=900),
        mode=st.sampled_from([0o644, 0o4755, 0o600]),
        uid=st.integers(0, 2),
        xattrs=xattrs,
    ),
    st.builds(file, paths, st.just(b"x")),
    st.builds(
        directory,
        paths,
        mode=st.sampled_from([0o755, 0o2700, 0o1777]),
        uid=st.integers(0, 2),
        mtime=st.sampled_from([0, TIME, -5 * 10**9]),
        xattrs=xattrs,
    ),
    st.builds(
        symlink,
        paths,
        st.one_of(paths, paths.map("/".__add__)),
        xattrs=st.sampled_from([None, {"trusted.x": b"1"}]),
    ),
    st.builds(hardlink, paths, paths),
    st.builds(
        device,
        paths,
        st.sampled_from([EntryType.CHAR, EntryType.BLOCK, EntryType.FIFO]),
        st.just(0),
        st.integers(0, 1),
    ),
    st.builds(whiteout, paths.filter(lambda path: path.rpartition("/")[2] not in (".", ".."))),
    st.builds(opaque, paths),
    st.just(opaque("")),
)


@settings(
    max_examples=1200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.lists(members, min_size=1, max_size=14), st.booleans())
@example([file("a/b"), whiteout("a"), file("a/c")], False)
@example([whiteout("a"), file("a", b"1"), directory("a"), file("a/x")], False)
@example([symlink("l", "/d"), file("l/x", b"1"), directory("d", mode=0o700), hardlink("l", "l/x")], False)
@example([file("d/x", b"1"), hardlink("d", "d/x")], False)
@example([symlink("l", ".."), opaque("l"), file("a")], False)
@example([file("a", mode=0o4755, xattrs={"security.capability": CAPABILITY}), hardlink("b", "a")], False)
def test_both_make_the_same_tree(disk, members, lowest):
    archive = tar(*members)
    assert outcome(by_builder, disk, archive, lowest) == outcome(by_extractor, disk, archive, lowest)


SPARSE_FORMATS = ["--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0", "--format=gnu"]


@pytest.mark.parametrize("form", SPARSE_FORMATS)
def test_sparse_files(disk, tmp_path, form):
    import subprocess

    for number, length in enumerate((1, 5_000_000, 70_000)):
        with open(tmp_path / f"s{number}", "wb") as out:
            for at in (0, 300_000, 4_000_000):
                if at < length:
                    out.seek(at)
                    out.write(b"data%d" % at)
            out.truncate(length)
    names = ["s0", "s1", "s2"]
    flags = [form] if form.startswith("--format") else ["--format=pax", form]
    archive = subprocess.run(
        ["tar", "-cS", *flags, *names], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    found = by_builder(disk, archive)
    assert found == by_extractor(disk, archive)
    for name in names:
        assert found[0][name][7] == (tmp_path / name).read_bytes()


def test_sparse_bombs_are_refused(disk):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("s")
        info.size = 512
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "s",
            "GNU.sparse.realsize": str(1 << 42),
        }
        archive.addfile(info, io.BytesIO(b"0\n".ljust(512, b"\0")))
    with pytest.raises(LayerBombError):
        by_builder(disk, out.getvalue())


def test_long_ways_are_refused(disk, monkeypatch):
    monkeypatch.setattr(erofs_layer, "_STEPS_MAX", 10_000)
    far = [symlink(f"l{n}", f"d/../l{n - 1}/../d/{'../d/' * 300}") for n in range(1, 30)]
    ways = [file(f"l29/{n}/x") for n in range(50)]
    with pytest.raises((ResourceExhaustedError, InvalidArgumentError)):
        by_builder(disk, tar(directory("d"), symlink("l0", "d"), *far, *ways))


@pytest.mark.parametrize("member", [file("a", xattrs={"user.a": b"v" * 60_000}), symlink("l", "t" * 4000)])
def test_what_must_be_held_in_memory_is_bounded(disk, monkeypatch, member):
    monkeypatch.setattr(erofs_layer, "_HELD_MAX", 100_000)
    archive = tar(*[member] * 30)
    with pytest.raises(ResourceExhaustedError):
        by_builder(disk, archive)
    by_builder(disk, tar(member))


def test_remembered_paths_are_bounded(disk, monkeypatch):
    monkeypatch.setattr(erofs_layer, "_PATHS_MAX", 400)
    archive = tar(symlink("a", "."), *[file(f"{'a/' * number}{number}") for number in range(40)])
    assert len(by_builder(disk, archive)[0]) == 42
    builder = LayerBuilder(Path(tempfile.mkdtemp(dir=disk)), budget=1 << 30)
    try:
        builder.write(archive)
        assert sum(map(len, builder._by_path)) <= 480
    finally:
        builder.close()


def test_too_many_entries_are_refused(disk):
    with pytest.raises(ResourceExhaustedError):
        by_builder(disk, tar(*[file(str(n)) for n in range(11)]), limits=Limits(entries=10))


@pytest.mark.parametrize("chunk", [700, 4096, 1 << 21])
@pytest.mark.parametrize(
    ("more", "kept"), [(0, 2048), (100, 2560), (10_240 - 2048, 10_240), (1 << 20, 10_240)]
)
def test_what_follows_the_end_is_not_kept_beyond_the_record(disk, chunk, more, kept):
    archive = tar(file("a", b"1", mtime=10**9))
    assert len(archive) == 2048
    place = Path(tempfile.mkdtemp(dir=disk))
    try:
        result = feed(LayerBuilder(place, budget=1 << 30), archive + bytes(more), chunk=chunk)
        assert result.data == (place / "layer.data").stat().st_size == kept
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize(
    "xattrs",
    [
        {"security.capability": CAPABILITY[:8]},
        {"security.capability": b"\0" + CAPABILITY[1:3] + b"\5" + CAPABILITY[4:]},
        {acl.ACCESS: ACL[:12]},
        {acl.ACCESS: ACL.replace(b"\x10\0", b"\x40\0")},
        {acl.ACCESS: ACL[:4] + ACL[12:]},
        {"user.": b""},
    ],
)
def test_attributes_that_no_file_system_takes(disk, xattrs):
    archive = tar(file("a", xattrs=xattrs))
    assert outcome(by_builder, disk, archive) == outcome(by_extractor, disk, archive) == InvalidArgumentError


def test_hard_link_describes_the_file_anew(disk):
    link = Entry(
        name="b",
        type=EntryType.HARDLINK,
        linkname="a",
        mode=0o755,
        uid=5,
        mtime=TIME,
        xattrs={"user.n": b"1"},
    )
    archive = tar(file("a", xattrs={"user.o": b"2", "security.capability": CAPABILITY}), link)
    found = by_builder(disk, archive)
    assert found == by_extractor(disk, archive)
    assert found[0]["a"][6] == {"user.o": b"2", "user.n": b"1"}
