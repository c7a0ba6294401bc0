"""Trees for EROFS tests, and what a reader makes of an image."""

import stat

from hypothesis import strategies as st

from lading.formats.erofs.reader import Image
from lading.formats.erofs.tree import Extent, Node

BLOCKS = 64

names = st.one_of(
    st.text(
        st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]),
        min_size=1,
        max_size=60,
    ).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255),
    st.sampled_from(["a", "+", "-", "..a", ". ", "!", "z" * 255, "\udcff\udc80", "é"]),
)
ids = st.one_of(st.just(0), st.integers(0, 2**32 - 2))
times = st.one_of(st.just(0), st.integers(0, 2**32 - 1).map(lambda s: s * 10**9), st.integers(0, 2**62))
xattrs = st.one_of(
    st.just({}),
    st.dictionaries(
        st.sampled_from(
            ["user.a", "user.long" * 8, "trusted.t", "trusted.overlay.opaque", "security.capability"]
        ),
        st.sampled_from([b"", b"y", b"v" * 700, bytes(range(256))]) | st.binary(max_size=40),
        max_size=4,
    ),
)


def _node(kind: int, **more: object):
    return st.builds(
        Node,
        mode=st.integers(0, 0o7777).map(lambda mode: kind | mode),
        uid=ids,
        gid=ids,
        mtime=times,
        xattrs=xattrs,
        **more,
    )


@st.composite
def files(draw):
    node = draw(_node(stat.S_IFREG))
    block = draw(st.sampled_from([512, 4096]))
    shape = draw(st.sampled_from(["empty", "flat", "extents"]))
    if shape == "flat":
        node.device, node.block = draw(st.integers(1, 2)), draw(st.integers(0, BLOCKS - 9))
        node.size = draw(st.integers(1, 8 * 512))
    elif shape == "extents":
        at, found = 0, []
        for _ in range(draw(st.integers(1, 4))):
            at += draw(st.integers(0, 3)) * 4096
            length = draw(st.integers(1, 2)) * 4096
            found.append(Extent(at, length, draw(st.integers(1, 2)), draw(st.integers(0, BLOCKS - 33))))
            at += length
        node.size, node.extents = at + draw(st.integers(0, 2)) * block, tuple(found)
    return node


leaves = st.one_of(
    files(),
    _node(
        stat.S_IFLNK,
        target=st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=900),
    ),
    _node(stat.S_IFCHR, rdev=st.integers(0, 2**20).map(lambda v: (v & 0xFF) | (v & 0xFFF00) << 12 | 5 << 8)),
    _node(stat.S_IFBLK, rdev=st.integers(0, 255)),
    _node(stat.S_IFIFO),
    _node(stat.S_IFSOCK),
)


def directories(children):
    return st.builds(
        lambda node, found: Node(
            node.mode, node.uid, node.gid, node.mtime, xattrs=node.xattrs, children=found
        ),
        _node(stat.S_IFDIR),
        st.dictionaries(names, children, max_size=12),
    )


trees = directories(st.recursive(leaves, directories, max_leaves=30))


def describe(root: Node) -> dict[str, tuple]:
    """What each path of a tree is; hard links by the first path of their node."""
    found: dict[str, tuple] = {}
    first: dict[int, str] = {}

    def visit(path: str, node: Node) -> None:
        origin = path
        if node.children is None:
            origin = first.setdefault(id(node), path)
        device = node.rdev if stat.S_IFMT(node.mode) in (stat.S_IFCHR, stat.S_IFBLK) else 0
        extents = node.extents or ((Extent(0, node.size, node.device, node.block),) if node.size else ())
        found[path] = (
            origin,
            node.mode,
            node.uid,
            node.gid,
            node.mtime,
            node.size,
            node.target,
            device,
            dict(node.xattrs),
            merged(extents),
        )
        names = sorted(
            (node.children or {}).items(), key=lambda item: item[0].encode("utf-8", "surrogateescape")
        )
        for name, child in names:
            visit(f"{path}/{name}" if path else name, child)

    visit("", root)
    return found


def merged(extents) -> list[tuple]:
    """Extents in tuples, those that follow each other joined."""
    found: list[tuple] = []
    for one in extents:
        if found:
            offset, length, device, block = found[-1]
            if (offset + length, device, block + length // 512) == (one.offset, one.device, one.block):
                found[-1] = (offset, length + one.length, device, block)
                continue
        found.append((one.offset, one.length, one.device, one.block))
    return found


def read(image: Image) -> dict[str, tuple]:
    """`describe` from an image."""
    found: dict[str, tuple] = {}
    first: dict[int, str] = {}
    for path, inode in image.walk():
        regular = stat.S_ISREG(inode.mode)
        target = image.readlink(inode) if stat.S_ISLNK(inode.mode) else ""
        found[path] = (
            first.setdefault(inode.nid, path),
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime,
            inode.size if regular else 0,
            target,
            inode.rdev,
            image.xattrs(inode),
            merged(image.extents(inode)) if regular else [],
        )
    return found
