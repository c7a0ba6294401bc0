"""What the writer writes, the reader reads; erofs-utils find nothing wrong with it."""

import contextlib
import stat
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.erofs import fsck

from lading.formats.erofs.reader import ErofsImageError, Image
from lading.formats.erofs.tree import Device, ErofsTreeError, Extent, Node, renew
from lading.formats.erofs.writer import ImageWriter

from .trees import BLOCKS, describe, read, trees

DEVICES = [Device(blocks=BLOCKS, tag="one"), Device(blocks=BLOCKS)]


def build(root: Node, **options) -> bytes:
    writer = ImageWriter(root, options.pop("devices", DEVICES), **options)
    data = b"".join(writer.chunks())
    assert len(data) == writer.size
    return data


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_image_holds_the_tree(root):
    expected = describe(root)
    image = Image(build(root))
    assert read(image) == expected
    assert image.inodes == len({value[0] for value in expected.values()})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_forms_do_not_change_the_tree(root):
    expected = describe(root)
    assert read(Image(build(root, compact=False, flat=False))) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.integers(0, 0o7777), st.integers(0, 2**32 - 2), st.integers(0, 2**62))
def test_an_amended_image_is_that_of_the_changed_tree(root, mode, owner, time):
    directories = [root]
    for directory in directories:
        directories += [child for child in directory.children.values() if child.children is not None]
    made = ImageWriter(root, DEVICES, compact=False)
    for directory in directories[::2]:
        directory.mode, directory.uid, directory.gid = stat.S_IFDIR | mode, owner, owner // 2
        directory.mtime = time
        made.amend(directory)
    renew(root)
    assert b"".join(made.chunks()) == build(root, compact=False)


def test_what_cannot_be_amended_is_refused():
    root = Node(0o40755, children={})
    made = ImageWriter(root, compact=False)
    root.uid = 2**32
    with pytest.raises(ErofsTreeError, match="out of range"):
        made.amend(root)
    root = Node(0o40755, children={})
    made = ImageWriter(root)
    with pytest.raises(ErofsTreeError, match="compact"):
        made.amend(root)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_fsck_finds_nothing(root):
    content = bytes(BLOCKS * 512)
    fsck(build(root), content, content)


def test_fsck_finds_nothing_in_large_directories():
    root = Node(0o40755, children={})
    for width in (1, 25, 40, 400, 5000):
        directory = Node(0o40755, children={}, xattrs={"trusted.overlay.origin": b""})
        for number in range(width):
            directory.children[f"{number:x}-" * (1 + number % 9)] = Node(
                0o100644, size=5, device=1, block=number % 9
            )
        root.children[str(width)] = directory
    image = build(root)
    assert len(list(Image(image).walk())) == 1 + 5 + 5466
    fsck(image, bytes(BLOCKS * 512), bytes(BLOCKS * 512))


@pytest.mark.parametrize("bits", [9, 10, 11, 12])
def test_block_sizes(bits):
    root = Node(0o40755, children={f"f{n}": Node(0o120777, target="t" * n) for n in range(1, 1200, 7)})
    expected = describe(root)
    image = build(root, block_bits=bits, devices=())
    assert read(Image(image)) == expected
    fsck(image)


def test_same_tree_same_bytes():
    def tree(order: int) -> Node:
        names = ["b", "a", "c"][::order]
        return Node(0o40755, children={name: Node(0o100600, xattrs={"user.a": b"1"}) for name in names})

    assert build(tree(1)) == build(tree(-1))


def test_link_count_is_counted():
    node = Node(0o100644)
    image = Image(
        build(Node(0o40755, children={"a": node, "b": node, "d": Node(0o40700, children={"c": node})}))
    )
    found = image.lookup("d/c")
    assert found is not None
    assert found.nlink == 3
    assert image.inode(image.root).nlink == 3
    assert image.lookup("d/x") is None
    assert image.lookup("a/x") is None


def test_shared_attributes_are_stored_once():
    value = b"v" * 5000
    children = {str(n): Node(0o100644, xattrs={"user.a": value}) for n in range(50)}
    assert len(build(Node(0o40755, children=children))) < 20_000


@pytest.mark.parametrize(
    "child",
    [
        Node(0o100644, size=10, device=3),
        Node(0o100644, size=BLOCKS * 512 + 1, device=1),
        Node(0o100644, size=10, device=1, block=BLOCKS),
        Node(0o100644, size=8192, extents=(Extent(0, 100, 1, 0), Extent(512, 512, 1, 0))),
        Node(0o100644, size=512, extents=(Extent(0, 1024, 1, 0),)),
        Node(0o120777),
        Node(0o120777, target="t" * 4096),
        Node(0o644),
        Node(0o100644, mtime=-1),
        Node(0o100644, uid=2**32),
        Node(0o100644, xattrs={"system.nfs4_acl": b""}),
        Node(0o100644, xattrs={"user.": b""}),
        Node(0o100644, xattrs={"user.a": bytes(65536)}),
    ],
)
def test_what_has_no_form_is_refused(child):
    with pytest.raises(ErofsTreeError):
        build(Node(0o40755, children={"x": child}))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", "n" * 256])
def test_names_without_form_are_refused(name):
    with pytest.raises(ErofsTreeError):
        build(Node(0o40755, children={name: Node(0o100644), "other": Node(0o100644)}))


def test_directory_under_two_names_is_refused():
    twice = Node(0o40755, children={})
    with pytest.raises(ErofsTreeError):
        build(Node(0o40755, children={"a": twice, "b": twice}))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_and_nothing_else(data):
    root = Node(
        0o40755,
        xattrs={"user.a": b"b"},
        children={
            "d": Node(0o40755, children={f"n{n}": Node(0o100644, size=9, device=1) for n in range(60)}),
            "l": Node(0o120777, target="x" * 600),
            "s": Node(0o100644, size=9000, extents=(Extent(4096, 4096, 2, 1),), xattrs={"user.a": b"b"}),
        },
    )
    image = bytearray(build(root))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(1024, len(image) - 1))
        image[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(image), len(image) - 512, 1500]))
    with contextlib.suppress(ErofsImageError):
        read(Image(image[:cut]))


def test_a_wide_directory_deep_down_takes_little_memory():
    top = Node(0o40755, children={f"{n}": Node(0o100644) for n in range(5000)})
    for _ in range(200):
        top = Node(0o40755, children={"n" * 255: top})
    image = Image(build(top))
    tracemalloc.start()
    try:
        assert sum(1 for _ in image.walk()) == 5201
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_paths_without_end_are_refused():
    top = Node(0o40755, children={})
    for _ in range(300):
        top = Node(0o40755, children={"n" * 255: top})
    with pytest.raises(ErofsImageError, match="too deep"):
        list(Image(build(top)).walk())


def test_foreign_kinds_of_images_are_refused():
    good = bytearray(build(Node(0o40755, children={})))
    for at, value in ((1024, 0), (1024 + 12, 30), (1024 + 80, 0x10), (1024 + 90, 3)):
        bad = bytearray(good)
        bad[at] = value
        with pytest.raises(ErofsImageError):
            Image(bad)
    assert stat.S_ISDIR(Image(good).inode(Image(good).root).mode)
