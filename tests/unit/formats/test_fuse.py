"""FUSE messages, by the layouts of linux/fuse.h."""

import stat
import struct

import pytest

from lading.formats import fuse
from lading.formats.fuse import Node, Op, Request


def request(op, body=b"", unique=7, node=1):
    return struct.pack("<IIQQIIIHH", 40 + len(body), op, unique, node, 0, 0, 0, 0, 0) + body


def test_a_request_is_as_long_as_it_says():
    raw = request(Op.LOOKUP, b"name\0", node=3) + b"rubbish that was in the buffer"
    found = fuse.parse(memoryview(raw))
    assert found == Request(Op.LOOKUP, 7, 3, b"name\0")
    assert fuse.name(found) == "name"


def test_a_name_may_be_any_bytes():
    assert fuse.name(Request(Op.LOOKUP, 1, 1, b"\xff\0")) == "\udcff"


def test_a_read_says_what():
    body = struct.pack("<QQIIQII", 9, 4096, 8192, 0, 0, 0, 0)
    assert fuse.read_range(fuse.parse(request(Op.READ, body))) == (4096, 8192)


def test_an_open_that_is_sent_again_gives_the_same_handle():
    first = fuse.parse(request(Op.OPEN, unique=12))
    again = fuse.parse(request(Op.OPEN, unique=12 | 1 << 63))
    assert fuse.handle(first) == fuse.handle(again) == 12
    body = struct.pack("<QIIQ", 12, 0, 0, 0)
    assert fuse.handle(fuse.parse(request(Op.RELEASE, body, unique=99))) == 12
    assert struct.unpack("<QIi", fuse.opened(12)) == (12, 0, 0)
    assert struct.unpack("<QIi", fuse.opened()) == (0, 0, 0)


def test_answers_and_errors_name_the_request():
    asked = Request(Op.READ, 5, 2, b"")
    assert struct.unpack("<IiQ", fuse.answer(asked, 100)) == (116, 0, 5)
    assert struct.unpack("<IiQ", fuse.error(asked, 5)) == (16, -5, 5)
    assert struct.unpack("<IiQ", fuse.notification(fuse.RESEND)) == (16, 7, 0)


@pytest.mark.parametrize(("flags", "kept"), [(0, 0), ((1 << 64) - 1 >> 32, 1 | 1 << 18 | 1 << 22)])
def test_only_what_both_know_is_agreed_upon(flags, kept):
    asked = Request(Op.INIT, 1, 0, struct.pack("<IIII", 7, 44, 131072, flags) + bytes(48))
    body = fuse.init(asked)
    assert len(body) == 64
    major, minor, readahead, agreed = struct.unpack_from("<IIII", body)
    assert (major, minor, readahead, agreed) == (7, 31, fuse.LONGEST_READ, kept)
    assert struct.unpack_from("<HHIIHH", body, 16) == (64, 48, 4096, 1, fuse.LONGEST_READ // 4096, 0)


def test_a_kernel_that_is_too_old_is_not_answered():
    assert fuse.init(Request(Op.INIT, 1, 0, struct.pack("<IIII", 7, 30, 0, 0))) == b""


def test_files_and_the_directory_have_their_attributes():
    file = fuse.entry(Node(5, 1000))
    assert struct.unpack_from("<QQQQII", file)[:2] == (5, 0)
    number, size, blocks, *_, mode, links = struct.unpack_from("<QQQQQQIIIII", file, 40)
    assert (number, size, blocks, mode, links) == (5, 1000, 2, stat.S_IFREG | 0o400, 1)
    directory = fuse.attributes(Node(fuse.ROOT, 0, directory=True))
    assert struct.unpack_from("<QQQQQQIIII", directory, 16)[-1] == stat.S_IFDIR | 0o500
    assert len(directory) == 16 + 88
    assert len(file) == 40 + 88
    assert len(fuse.statistics()) == 80


def test_what_needs_no_answer_is_known():
    assert set(fuse.SILENT) == {Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT}
