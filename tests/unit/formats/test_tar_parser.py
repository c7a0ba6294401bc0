import io
import struct
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.formats.rawtar import END, block, entries, extension, file, octal, padded, pax, read, record

from lading.errors import LadingError
from lading.formats.tar import header, usual
from lading.formats.tar.entry import Entry, EntryType, Limits, TarError, TarLimitError, TruncatedTarError
from lading.formats.tar.names import rooted
from lading.formats.tar.parser import TarParser

TIGHT = Limits(path=98, component=98, linkname=98, depth=3, file_size=100, entries=2, extension=2048, xattr=4)


def only(stream, **arguments):
    (found,) = entries(stream, **arguments)
    return found


def refused(stream, match, error=TarError, **arguments):
    with pytest.raises(error, match=match):
        entries(stream, **arguments)


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513, 1 << 20])
def test_content_arrives_whatever_the_size_of_the_steps(step):
    stream = (
        file(b"a", b"hello") + file(b"empty") + pax((b"path", b"long" * 40)) + file(b"b", bytes(1500)) + END
    )
    found = read(stream, step)
    assert [(entry.name, content) for entry, content in found] == [
        ("a", b"hello"),
        ("empty", b""),
        ("long" * 40, bytes(1500)),
    ]


def test_content_is_not_copied():
    stream = bytearray(file(b"a", b"hello"))
    _, data = TarParser().feed(stream)
    stream[512:517] = b"HELLO"
    assert bytes(data.view) == b"HELLO"


def test_entries_alone_say_where_their_content_lies():
    stream = file(b"a", b"hello") + file(b"b", b"x" * 600) + block(b"d/", b"5")
    parser = TarParser()
    found = [
        entry for at in range(0, len(stream), 100) for entry in parser.feed_entries(stream[at : at + 100])
    ]
    parser.finish()
    assert [entry.extents() for entry in found] == [[(0, 512, 5)], [(0, 1536, 600)], []]
    assert parser.entries == 3
    assert parser.position == len(stream)


def test_types_and_fields():
    stream = (
        block(b"h", b"1", octal(5), link=b"f")
        + block(b"s", b"2", link=b"../t")
        + block(b"c", b"3", major=b"0000001\0", minor=b"0000003\0", link=b"junk")
        + block(b"b", b"4", major=b"0000010\0")
        + block(b"d/", b"5", octal(9), mode=b"0041755\0", uid=b"0001750\0", gid=b"0001751\0", mtime=octal(7))
        + block(b"p", b"6")
        + file(b"7", b"x", flag=b"7")
        + block(b"old/", b"\0", octal(99))
        + file(b"old", b"y", flag=b"\0")
    )
    found = entries(stream)
    assert [(e.name, e.type.value, e.linkname, e.size) for e in found] == [
        ("h", "hardlink", "f", 0),
        ("s", "symlink", "../t", 0),
        ("c", "char", "", 0),
        ("b", "block", "", 0),
        ("d/", "directory", "", 0),
        ("p", "fifo", "", 0),
        ("7", "file", "", 1),
        ("old/", "directory", "", 0),
        ("old", "file", "", 1),
    ]
    assert (found[2].devmajor, found[2].devminor, found[3].devmajor) == (1, 3, 8)
    assert (found[4].mode, found[4].uid, found[4].gid, found[4].mtime) == (0o1755, 1000, 1001, 7 * 10**9)


@pytest.mark.parametrize(
    "made",
    [
        file(b"n\xff\xc3\xa9", b"abc", mode=b"0104755\0"),
        block(b"s", b"2", link=b"target", magic=b"ustar  \0"),
        block(b"h", b"1", link=b"other"),
        block(b"d/", b"5", octal(3)),
    ],
)
def test_the_usual_way_and_the_general_way_agree(made):
    fast = usual.entry(memoryview(made), 0, 512)
    assert fast is not None
    stream = made + END
    assert fast == only(stream) == only(stream, limits=Limits(depth=49))


def test_owners_seen_are_forgotten_when_they_are_too_many(monkeypatch):
    monkeypatch.setattr(usual, "_OWNERS_MAX", 2)
    found = entries(b"".join(block(uid=b"%07o\0" % uid) for uid in (1, 2, 3, 1)))
    assert [entry.uid for entry in found] == [1, 2, 3, 1]
    assert len(usual._OWNERS) <= 2


def test_names_are_byte_exact():
    name = b"\xff\xfe\xc3\xa9 \t\x7f"
    assert only(file(name)).name.encode("utf-8", "surrogateescape") == name
    assert only(pax((b"hdrcharset", b"BINARY"), (b"path", name)) + file()).name == name.decode(
        "utf-8", "surrogateescape"
    )


def test_prefixes():
    full = b"n" * 100
    assert only(block(full)).name == "n" * 100
    assert only(block(b"n", prefix=b"p/q")).name == "p/q/n"
    assert only(block(b"n", prefix=b"p/q", mtime=b"          7\0")).name == "p/q/n"
    star = b"p" * 131 + b"00000000007\0" + b"00000000007\0" + b"\0" * 8 + b"tar\0"
    assert only(block(b"n", prefix=star.ljust(167, b"\0"))).name == "p" * 131 + "/n"
    gnu_times = b"00000000007\0" + b"00000000007\0"
    assert only(block(b"n", magic=b"ustar  \0", prefix=gnu_times)).name == "n"
    assert only(block(b"n", magic=b"ustar  \0", prefix=b"dir/sub")).name == "dir/sub/n"
    assert only(block(b"n", magic=b"ustar  \0", prefix=b"d\xff")).name == "n"
    assert only(block(b"n", magic=b"ustar  \0", mtime=b"          7\0")).name == "n"
    assert only(block(b"n", magic=bytes(8))).name == "n"


# End and truncation (T15, T25)


@pytest.mark.parametrize(
    "end",
    [b"", bytes(512), bytes(1024), bytes(10240), bytes(1024) + b"trailing data", bytes(1024) + file(b"g")],
)
def test_ends(end):
    assert only(file(b"f", b"x") + end).name == "f"


def test_an_empty_stream_is_an_empty_archive():
    assert entries(b"") == []
    assert entries(END) == []


def test_zeros_after_the_end_are_discarded_as_they_come():
    parser = TarParser()
    parser.feed(END)
    assert parser.ended
    for _ in range(100):
        assert parser.feed(bytes(1 << 20)) == []
    parser.finish()


def test_an_entry_after_a_lone_zero_block():
    refused(bytes(512) + file(), "lone zero block")


@pytest.mark.parametrize(
    "stream",
    [
        file(b"f", b"x" * 600)[:1000],
        file(b"f", b"x")[:-1],
        file()[:100],
        pax((b"path", b"x")),
        pax((b"path", b"x"))[:600],
        extension(b"name\0", b"L"),
    ],
)
def test_truncated(stream):
    refused(stream, "truncated", TruncatedTarError)


def test_an_extension_without_entry():
    refused(pax((b"path", b"x")) + END, "without its entry")


# Numbers (T18, T23)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"   1750\0", 1000),
        (b"1750 \0\0\0", 1000),
        (b"00001750", 1000),
        (b"1750\0xyz", 1000),
        (bytes(8), 0),
        (b"        ", 0),
        (b"\x80\0\0\0\0\0\x03\xe8", 1000),
        (b"\x80\0\0\0\xff\xff\xff\xfe", 2**32 - 2),
    ],
)
def test_numbers(field, value):
    assert only(block(uid=field)).uid == value


@pytest.mark.parametrize(
    "field",
    [
        b"-000001\0",
        b"+000001\0",
        b"0o01750\0",
        b"1_75000\0",
        b"12 3400\0",
        b"0000089\0",
        b"\xff" * 8,
        b"\x80\0\0\0\xff\xff\xff\xff",
        b"\x80\0\0\x01\0\0\0\0",
    ],
)
@pytest.mark.parametrize("which", ["uid", "gid"])
def test_bad_owners(field, which):
    refused(block(**{which: field}), "number|out of range")


def test_bad_sizes_modes_and_times():
    refused(block(size=b"\xff" * 12), "negative")
    refused(block(size=b"\x80" + b"\xff" * 11), "exceeds 64 bits")
    refused(block(size=b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7), "claims", TarLimitError)
    refused(block(mode=b"\x80\0\0\x01\0\0\0\0"), "mode")
    assert only(block(mtime=b"\xff" * 12)).mtime == -(10**9)


def test_checksums():
    refused(block(checksum=b"000001\0 "), "checksum")
    refused(b"x" * 512, "number|checksum")
    name = b"\xff\xfe"
    made = bytearray(block(name))
    signed = sum(struct.unpack("512b", made)) - sum(made[148:156]) + 256
    made[148:156] = b"%06o\0 " % signed
    assert only(bytes(made)).name == name.decode("utf-8", "surrogateescape")


def test_devices_out_of_range():
    refused(block(b"c", b"3", major=b"0010000\0"), "device")
    refused(block(b"c", b"3", minor=b"4000000\0"), "device")


def test_unknown_types():
    refused(block(flag=b"V"), "unsupported tar entry type")


# Names and limits (T19, T24)


@pytest.mark.parametrize("name", [b"a\nb", b"x" * 256, b"d/" * 2049, b"d/" + b"y" * 256])
def test_refused_names(name):
    refused(pax((b"path", name)) + file(), "name", LadingError)
    refused(pax((b"linkpath", name)) + block(b"h", b"1"), "name", LadingError)


def test_a_newline_in_a_short_name():
    refused(file(b"a\nb"), "newline")


@pytest.mark.parametrize("name", [b"tab\t", b"back\\slash", b"\x01\x7f", b"\xff\xfe"])
def test_a_name_of_any_other_bytes(name):
    assert only(file(name)).name.encode("utf-8", "surrogateescape") == name
    assert only(pax((b"path", name)) + file()).name.encode("utf-8", "surrogateescape") == name


def test_names_at_the_limits():
    longest = b"/".join([b"x" * 255] * 16)
    assert len(only(pax((b"path", longest)) + file()).name) == 4095
    assert only(pax((b"linkpath", b"x" * 4095)) + block(b"s", b"2")).linkname == "x" * 4095
    assert only(block(b"s", b"2", link=b"a\nb")).linkname == "a\nb"


def test_a_whiteout_is_longer_than_the_longest_name_that_it_deletes():
    assert only(pax((b"path", b"d/.wh." + b"x" * 255)) + file()).name == "d/.wh." + "x" * 255
    for name in (b".wh." + b"x" * 256, b".wx." + b"x" * 252, b"x" * 256):
        refused(pax((b"path", b"d/" + name)) + file(), "component", LadingError)


def test_link_targets():
    refused(block(b"h", b"1"), "no target")
    refused(block(b"s", b"2"), "empty")
    refused(pax((b"linkpath", b"x" * 4096)) + block(b"s", b"2"), "too long")


def test_limits():
    assert len(entries(file(b"a/b/c") + file(b"a"), limits=TIGHT)) == 2
    refused(file() * 3, "more than 2 entries", TarLimitError, limits=TIGHT)
    refused(file(b"a/b/c/d"), "components", TarLimitError, limits=TIGHT)
    assert only(file(b"//a///b//c"), limits=TIGHT).name == "//a///b//c"
    refused(file(b"f", b"x" * 101), "claims", TarLimitError, limits=TIGHT)
    refused(extension(b"x" * 2049, b"L"), "longer", TarLimitError, limits=TIGHT)
    refused(pax((b"SCHILY.xattr.user.a", b"12345")) + file(), "longer than 4", limits=TIGHT)
    refused(block(b"x", b"x", octal((1 << 20) + 1)), "extension header", TarLimitError)


def test_rooted():
    cases = {
        "a/b": "a/b", "/etc/x": "etc/x", "//x": "x", "./../x": "x", "a/../../x": "x", "a//b/": "a/b",
        ".": "", "..": "", "": "", "/": "", "./": "", "a/./b": "a/b", "a/...": "a/...", ".a/..b": ".a/..b",
    }  # fmt: skip
    assert {name: rooted(name) for name in cases} == cases


# Extensions (T20)


def test_pax_fields():
    found, content = read(
        pax(
            (b"path", b"new"), (b"size", b"3"), (b"uid", b"4294967294"), (b"gid", b"7"), (b"mtime", b"1.5"),
            (b"comment", b"x"), (b"uname", b"root"), (b"SCHILY.xattr.user.a", b"\0=\n"), (b"SCHILY.xattr.user.e", b""),
            (b"LIBARCHIVE.xattr.user.%61", b"b3RoZXI"), (b"LIBARCHIVE.xattr.user.b", b"Yg"),
        )
        + file(b"old") + padded(b"abc")
    )[0]  # fmt: skip
    assert content == b"abc"
    assert found == Entry(
        "new", EntryType.FILE, uid=2**32 - 2, gid=7, mtime=1_500_000_000, size=3, real_size=3, offset=1536,
        xattrs={"user.a": b"\0=\n", "user.b": b"b", "user.e": b""},
    )  # fmt: skip


def test_extensions_hold_for_one_entry_and_the_last_of_equals_counts():
    stream = pax((b"path", b"one")) + pax((b"path", b"x"), (b"path", b"two")) + file(b"a") + file(b"b")
    assert [entry.name for entry in entries(stream)] == ["two", "b"]
    assert only(pax((b"path", b"x")) + block(b"e", b"x") + file(b"b")).name == "b"
    assert only(block(b"e", b"L") + file(b"b")).name == "b"
    assert only(pax((b"path", b""), (b"uid", b"")) + file(b"b")).name == "b"


def test_global_headers_are_checked_and_ignored():
    assert only(pax((b"path", b"g"), (b"size", b"9"), flag=b"g") + file(b"a")).name == "a"
    refused(extension(b"junk", b"g"), "malformed")


def test_gnu_long_names_come_before_pax():
    stream = (
        extension(b"long\0junk", b"L")
        + extension(b"target\0", b"K")
        + pax((b"path", b"p"), (b"linkpath", b"q"))
    )
    found = only(stream + block(b"s", b"2"))
    assert (found.name, found.linkname) == ("long", "target")


@pytest.mark.parametrize(("value", "nanoseconds"), [
    (b"1", 10**9), (b"-1.5", -1_500_000_000), (b"0.1234567899", 123456789), (b"3.", 3 * 10**9), (b"", 0),
])  # fmt: skip
def test_pax_times(value, nanoseconds):
    assert only(pax((b"mtime", value)) + file()).mtime == nanoseconds


@pytest.mark.parametrize("body", [
    b"5 a=b\n", b"7 a=b\n", b"6 a=b", b"6 a=bx", b"06 ab\n\n", b"6 =bb\n", b"a=b\n", b" a=b\n", b"-6 a=b\n", b"1_0 a=bbb\n",
    b"99999999999 a=b\n", b"3 \n", bytes(512), b"\xb2 a=b\n",
    record(b"path", b"a\0b"), record(b"k\0", b"v"), record(b"path", b"a\nb"),
    record(b"mtime", b"1e3"), record(b"mtime", b"--1"), record(b"mtime", b"9" * 19), record(b"uid", b"-1"), record(b"uid", b"+1"),
    record(b"uid", b"4294967295"), record(b"gid", b"1_0"), record(b"size", b"9" * 19), record(b"size", b"9" * 5000),
    record(b"size", "١".encode()), record(b"SCHILY.xattr.", b""), record(b"SCHILY.xattr." + b"x" * 256, b""),
    record(b"LIBARCHIVE.xattr.a", b"!"), record(b"LIBARCHIVE.xattr.%00", b"YQ"), record(b"SCHILY.xattr.user.x", bytes(65537)),
])  # fmt: skip
def test_malformed_pax(body):
    refused(extension(body) + file(), ".")


# Sparse files (T14)


def old_sparse(slots, stored, real, *, more=b"\0", magic=b"ustar  \0"):
    area = b"".join(octal(number) for pair in slots for number in pair).ljust(96, b"\0")
    return block(b"s", b"S", octal(stored), magic=magic, prefix=bytes(41) + area + more + octal(real))


def test_old_gnu_sparse():
    found, content = read(old_sparse([(0, 2), (5, 1), (9, 0)], 3, 9) + padded(b"abc"))[0]
    assert content == b"ab\0\0\0c\0\0\0"
    assert (found.size, found.real_size, found.extents()) == (3, 9, [(0, 512, 2), (5, 514, 1)])
    more = (
        b"".join(octal(number) for at in range(21) for number in (100 + at, 1)).ljust(504, b"\0")
        + b"\x01"
        + bytes(7)
    )
    last = (octal(130) + octal(1)).ljust(512, b"\0")
    head = old_sparse([(10 * at, 1) for at in range(4)], 26, 131, more=b"\x01")
    for step in (5, 1 << 20):
        found, content = read(head + more + last + padded(b"x" * 26), step)[0]
        assert content.count(b"x") == 26
        assert content[130:] == b"x"


def test_old_gnu_sparse_refused():
    refused(old_sparse([(0, 3)], 3, 3, magic=b"ustar\00000") + padded(b"abc"), "not GNU")
    flood = (
        old_sparse([(0, 0)] * 4, 0, 0, more=b"\x01")
        + ((octal(0) * 42).ljust(504, b"\0") + b"\x01" + bytes(7)) * 3000
    )
    refused(flood, "sparse map", TarLimitError)


def sparse_1_0(text, content, *, size=None, real=b"9"):
    body = padded(text) + content
    records = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"sp"),
        (b"GNU.sparse.realsize", real),
    ]
    return pax(*records) + block(size=octal(len(body) if size is None else size)) + padded(body)


def test_sparse_1_0():
    for step in (3, 512, 1 << 20):
        found, content = read(sparse_1_0(b"2\n0\n2\n5\n1\n", b"abc") + file(b"n", b"next"), step)[0]
        assert content == b"ab\0\0\0c\0\0\0"
        assert (found.name, found.size, found.real_size, found.offset) == ("sp", 3, 9, 2048)
    many = b"300\n" + b"".join(b"%d\n1\n" % (2 * at) for at in range(300))
    assert read(sparse_1_0(many, b"x" * 300, real=b"600"))[0][1] == b"x\0" * 300
    assert read(sparse_1_0(b"0\n", b""))[0][1] == bytes(9)


def test_sparse_1_0_refused():
    refused(sparse_1_0(b"1\n0\n3\n", b"", size=100), "longer than the entry")
    refused(sparse_1_0(b"x\n", b""), "malformed number")
    refused(sparse_1_0(b"1\n-1\n3\n", b"abc"), "malformed number")
    refused(sparse_1_0(b"9999999\n" + b"1\n" * (1 << 20), b""), "sparse map", TarLimitError)


def sparse_0(*records, name=b"f", flag=b"0"):
    return pax(*records) + file(name, b"abc" if flag == b"0" else b"", flag=flag)


def test_sparse_0_x():
    first = sparse_0(
        (b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.offset", b"0"), (b"GNU.sparse.numbytes", b"2"), (b"GNU.sparse.offset", b"5"), (b"GNU.sparse.numbytes", b"1"),
    )  # fmt: skip
    second = sparse_0(
        (b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"1"), (b"GNU.sparse.name", b"sp"),
        (b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b"0,2,5,1"),
    )  # fmt: skip
    assert [content for _, content in read(first + second)] == [b"ab\0\0\0c\0\0\0"] * 2
    whole = sparse_0((b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"0,3"))
    assert read(whole)[0][1] == b"abc"


NUMBLOCKS = (b"GNU.sparse.numblocks", b"1")


@pytest.mark.parametrize(("records", "error"), [
    ([(b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0")], TarError),
    ([(b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"1"), NUMBLOCKS], TarError),
    ([NUMBLOCKS, (b"GNU.sparse.map", b"0,2,2,1")], TarError),
    ([NUMBLOCKS, (b"GNU.sparse.map", b"0,2")], TarError),
    ([NUMBLOCKS, (b"GNU.sparse.map", b"1,3")], TarError),
    ([NUMBLOCKS, (b"GNU.sparse.map", b"0,9223372036854775807")], TarError),
    ([(b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b"2,2,1,1"), (b"GNU.sparse.size", b"9")], TarError),
    ([(b"GNU.sparse.map", b"0,3")], TarError),
    ([NUMBLOCKS, (b"GNU.sparse.map", b"0,3"), (b"GNU.sparse.size", b"9223372036854775807")], TarLimitError),
    ([(b"GNU.sparse.numbytes", b"1")], TarError),
    ([(b"GNU.sparse.offset", b"1"), (b"GNU.sparse.offset", b"1")], TarError),
    ([(b"GNU.sparse.offset", b"1,2")], TarError),
])  # fmt: skip
def test_sparse_0_x_refused(records, error):
    refused(sparse_0(*records), ".", error)


def test_sparse_maps_are_bounded_and_for_files_only():
    small = Limits(sparse_map=4)
    refused(sparse_0(NUMBLOCKS, (b"GNU.sparse.map", b"00,03")), "sparse map", TarLimitError, limits=small)
    refused(sparse_0(NUMBLOCKS, (b"GNU.sparse.map", b"0,0"), name=b"d/", flag=b"5"), "no file")


# Against another reader, and against noise


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_tarfile(form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for index in range(60):
            info = tarfile.TarInfo(f"{'d' * 60}/{'é' if form != tarfile.USTAR_FORMAT else 'e'}{'n' * index}")
            info.type = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)[index % 4]
            info.size = index * 97 if index % 4 == 0 else 0
            info.linkname = "l" * index if index % 4 in (1, 2) else ""
            info.mtime, info.uid, info.gid, info.mode = (
                1_700_000_000 + index,
                index * 1000,
                index,
                0o4000 + index,
            )
            info.devmajor, info.devminor = (index, 7) if index % 4 == 3 else (0, 0)
            archive.addfile(info, io.BytesIO(b"c" * info.size))
    stream = buffer.getvalue()
    found = entries(stream)
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        expected = archive.getmembers()
    assert len(found) == 60
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.name, ours.linkname, ours.size, ours.mode, ours.uid, ours.gid) == (
            theirs.name, theirs.linkname, theirs.size, theirs.mode, theirs.uid, theirs.gid,
        )  # fmt: skip
        assert ours.mtime == theirs.mtime * 10**9
        assert (ours.devmajor, ours.devminor) == (theirs.devmajor, theirs.devminor)
        if ours.size:
            assert ours.offset == theirs.offset_data


SEEDS = [
    file(b"a", b"hello") + block(b"d/", b"5") + block(b"s", b"2", link=b"a") + END,
    pax((b"path", b"p" * 200), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.a", b"v")) + file(b"a", b"xyz") + END,
    extension(b"n" * 150, b"L") + file(b"a", b"x") + END,
    sparse_1_0(b"2\n0\n2\n5\n1\n", b"abc") + END,
    old_sparse([(0, 2), (5, 1)], 3, 9) + padded(b"abc") + END,
]


def pushed(stream, step):
    try:
        read(stream, step)
    except LadingError as error:
        return type(error), str(error)
    return None


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    st.booleans(),
)
def test_damaged_archives_never_surprise(seed, changes, repaired):
    stream = bytearray(seed)
    for at, value in changes:
        stream[at % len(stream)] = value
    if repaired:  # let the damage get past the checksum
        total = sum(stream[:512]) - sum(stream[148:156]) + 256
        stream[148:156] = b"%06o\0 " % total
    assert pushed(bytes(stream), 1 << 20) == pushed(bytes(stream), 113)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000))
def test_noise_never_surprises(noise):
    pushed(noise, 512)
    pushed(extension(noise) + file() + END, 512)


def test_a_block_of_zeros_is_no_header():
    assert header.parse(memoryview(bytes(512)), 0) is None


def test_empty_runs_inside_a_sparse_map():
    found, content = read(old_sparse([(0, 2), (3, 0), (5, 1)], 3, 9) + padded(b"abc"))[0]
    assert content == b"ab\0\0\0c\0\0\0"
    assert found.extents() == [(0, 512, 2), (5, 514, 1)]
