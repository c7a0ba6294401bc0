"""Tar blocks made by hand, for what no writer writes; and a reader that puts files together."""

from lading.formats.tar.entry import Data, Entry
from lading.formats.tar.parser import TarParser

END = bytes(1024)


def block(
    name=b"f",
    flag=b"0",
    size=b"00000000000\0",
    *,
    mode=b"0000644\0",
    uid=b"0000000\0",
    gid=b"0000000\0",
    mtime=b"00000000000\0",
    link=b"",
    magic=b"ustar\00000",
    major=b"",
    minor=b"",
    prefix=b"",
    checksum=None,
):
    head = name.ljust(100, b"\0") + mode + uid + gid + size + mtime
    tail = flag + link.ljust(100, b"\0") + magic + bytes(64) + major.ljust(8, b"\0") + minor.ljust(8, b"\0")
    tail += prefix.ljust(167, b"\0")
    if checksum is None:
        checksum = b"%06o\0 " % (sum(head) + sum(tail) + 256)
    made = head + checksum + tail
    assert len(made) == 512
    return made


def octal(size):
    return b"%011o\0" % size


def padded(content):
    return content + bytes(-len(content) % 512)


def file(name=b"f", content=b"", **fields):
    return block(name, size=octal(len(content)), **fields) + padded(content)


def record(keyword, value):
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def extension(body, flag=b"x"):
    return block(b"ext", flag, octal(len(body))) + padded(body)


def pax(*records, flag=b"x"):
    return extension(b"".join(record(*pair) for pair in records), flag)


def read(stream, step=1 << 20, **arguments):
    """Entries with their content (holes filled), in order."""
    parser = TarParser(**arguments)
    found: list[tuple[Entry, bytearray]] = []
    done = True
    for at in range(0, len(stream), step):
        for event in parser.feed(stream[at : at + step]):
            if isinstance(event, Data):
                assert not done
                found[-1][1][event.offset : event.offset + len(event.view)] = event.view
                done = event.last
            else:
                assert done
                found.append((event, bytearray(event.real_size)))
                done = event.size == 0
    parser.finish()
    assert done
    return [(entry, bytes(content)) for entry, content in found]


def entries(stream, **arguments):
    return [entry for entry, _ in read(stream, **arguments)]
