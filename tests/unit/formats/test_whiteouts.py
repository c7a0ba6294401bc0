import pytest

from lading.formats.tar.entry import Entry, EntryType
from lading.formats.whiteouts import Kind, Whiteout, WhiteoutError, classify, opaque, whiteout


@pytest.mark.parametrize(
    ("path", "kind", "target"),
    [
        (".wh.a", Kind.WHITEOUT, "a"),
        ("d/.wh.a b", Kind.WHITEOUT, "d/a b"),
        ("d/.wh....", Kind.WHITEOUT, "d/..."),
        ("d/.wh.a.wh.b", Kind.WHITEOUT, "d/a.wh.b"),
        (".wh..wh..opq", Kind.OPAQUE, ""),
        ("d/e/.wh..wh..opq", Kind.OPAQUE, "d/e"),
        (".wh..wh.plnk", Kind.RESERVED, ".wh..wh.plnk"),
        (".wh..wh.plnk/12.34", Kind.RESERVED, ".wh..wh.plnk/12.34"),
        ("d/.wh..wh.x", Kind.RESERVED, "d/.wh..wh.x"),
        ("d/.wh..wh..opq/x", Kind.RESERVED, "d/.wh..wh..opq/x"),
    ],
)
def test_meanings(path, kind, target):
    assert classify(path) == Whiteout(kind=kind, path=target)


@pytest.mark.parametrize("path", ["", "a", "d/a", "d/x.wh.a", "x.wh./a", ".w/h.a", ".wha/b"])
def test_usual_names_are_no_whiteouts(path):
    assert classify(path) is None


@pytest.mark.parametrize(
    "path", [".wh.", "d/.wh.", ".wh..", "d/.wh...", ".wh.a/b", "d/.wh.a/.wh.b", ".wh.a/.wh..wh..opq"]
)
def test_refused(path):
    with pytest.raises(WhiteoutError, match="whiteout"):
        classify(path)


def test_made():
    assert whiteout("d/a", mtime=5) == Entry("d/.wh.a", EntryType.FILE, mode=0, mtime=5)
    assert opaque("d", mtime=5) == Entry("d/.wh..wh..opq", EntryType.FILE, mode=0, mtime=5)
    assert classify(whiteout("a").name) == Whiteout(kind=Kind.WHITEOUT, path="a")
    assert classify(opaque("").name) == Whiteout(kind=Kind.OPAQUE, path="")


@pytest.mark.parametrize("path", ["", ".wh.a", "d/.wh..wh..opq", "..", ".", ".wh.d/a"])
def test_what_cannot_be_deleted(path):
    with pytest.raises(WhiteoutError, match=r"whiteout|cannot"):
        whiteout(path)
