"""What a tar stream consists of: entries, spans of their content, and the limits that hostile streams meet."""

from dataclasses import dataclass
from enum import Enum
from stat import S_IMODE
from typing import Final, Protocol

import msgspec

from lading.errors import InvalidArgumentError, ResourceExhaustedError

BLOCK: Final = 512
"""Tar's unit: headers fill one block, content is padded to whole blocks."""
MAX_ID: Final = 2**32 - 2
"""Highest user or group ID; 2**32 - 1 means "unchanged" to chown(2) and is never an owner."""
NO_XATTRS: Final[dict[str, bytes]] = {}
"""The xattrs of an entry that has none; shared, never changed."""


class TarError(InvalidArgumentError):
    """The archive is malformed or hostile; nothing of it should become visible."""

    code = "invalid-tar"


class TruncatedTarError(TarError):
    """The stream ended inside an entry."""

    code = "truncated-tar"


class TarLimitError(ResourceExhaustedError):
    """The archive is larger, deeper or richer in entries than allowed."""

    code = "tar-limit"


class EntryType(Enum):
    """Kinds of entries. Contiguous and both sparse kinds of files are `FILE`."""

    FILE = "file"
    HARDLINK = "hardlink"
    SYMLINK = "symlink"
    CHAR = "char"
    BLOCK = "block"
    DIRECTORY = "directory"
    FIFO = "fifo"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One member of an archive.

    A struct, not a dataclass, because 30,000 of them are made per layer and a frozen dataclass costs ten times as much.
    Text is byte-exact: names are decoded as UTF-8 with ``surrogateescape``.
    """

    name: str
    """As in the archive: possibly absolute, with ``..`` or a trailing slash. See `lading.formats.tar.names.rooted`."""
    type: EntryType
    linkname: str = ""
    """Target of a symbolic link, or archive name of a hard link's target; otherwise empty."""
    mode: int = 0o644
    """Permission bits, setuid, setgid and sticky; no file type."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Nanoseconds since 1970; may be negative."""
    size: int = 0
    """Bytes of content stored in the archive; 0 for all but `EntryType.FILE`."""
    real_size: int = 0
    """Length of the file. Differs from ``size`` when ``sparse`` is set."""
    offset: int = 0
    """Where the content begins in the tar stream."""
    devmajor: int = 0
    devminor: int = 0
    xattrs: dict[str, bytes] = NO_XATTRS
    """Extended attributes by full name; not to be changed."""
    sparse: tuple[tuple[int, int], ...] | None = None
    """For sparse files: ascending (offset in the file, length) of the stored runs; their lengths sum up to ``size``."""

    def extents(self) -> list[tuple[int, int, int]]:
        """Where the content lies: (offset in the file, offset in the tar stream, length), ascending, none empty."""
        if self.sparse is None:
            return [(0, self.offset, self.size)] if self.size else []
        found: list[tuple[int, int, int]] = []
        at = self.offset
        for start, length in self.sparse:
            if length:
                found.append((start, at, length))
            at += length
        return found


class Data(msgspec.Struct, frozen=True, gc=False):
    """A span of the content of the entry before it. Spans of a sparse file never cross the border of a run."""

    offset: int
    """Where the span belongs in the file."""
    view: memoryview
    """Borrowed from the buffer that was fed: valid until the caller reuses that buffer."""
    last: bool
    """Whether this is the final span of the entry. Entries with ``size`` 0 have no span."""


class Status(Protocol):
    """The part of a stat(2) result that an archive keeps."""

    @property
    def st_mode(self) -> int: ...
    @property
    def st_uid(self) -> int: ...
    @property
    def st_gid(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_rdev(self) -> int: ...


def entry_of(
    name: str,
    kind: EntryType,
    status: Status,
    *,
    mtime: int | None = None,
    linkname: str = "",
    size: int = 0,
    xattrs: dict[str, bytes] | None = None,
) -> Entry:
    """The entry of a file of Linux; ``mtime`` stands for the one that it has.

    A device number is split as glibc does (sysdeps/unix/sysv/linux/makedev.h).
    """
    device = status.st_rdev if kind in (EntryType.CHAR, EntryType.BLOCK) else 0
    return Entry(
        name=name,
        type=kind,
        linkname=linkname,
        mode=S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns if mtime is None else mtime,
        size=size,
        devmajor=device >> 8 & 0xFFF | device >> 32 & ~0xFFF,
        devminor=device & 0xFF | device >> 12 & 0xFFFFFF00,
        xattrs=xattrs or NO_XATTRS,
    )


Event = Entry | Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one archive (hostile-input.md T14, T19, T24). Text is measured in bytes."""

    entries: int = 5_000_000
    depth: int = 1024
    """Components of a name."""
    path: int = 4096
    component: int = 255
    linkname: int = 4095
    """Target of a symbolic link, as the kernel bounds it."""
    extension: int = 1 << 20
    """One PAX header or GNU long name."""
    sparse_map: int = 1 << 20
    """Encoded form of a sparse map."""
    xattr: int = 1 << 16
    """Value of one extended attribute, as the kernel bounds it."""
    file_size: int = 1 << 44
    """Length of one file, holes included."""


DEFAULT_LIMITS: Final = Limits()
