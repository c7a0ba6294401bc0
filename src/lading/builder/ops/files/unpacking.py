"""ADD of an archive: its entries become files of the destination, as Docker's ``archive.Untar`` has them.

Archives are hostile: parents are found inside the destination by the kernel, last components are made afresh and never followed,
and ``.wh.`` names are ordinary files, since this is no layer.
"""

import bz2
import contextlib
import lzma
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from typing_extensions import Buffer

from lading.builder.ops.files import paths
from lading.builder.ops.files.copying import Rules
from lading.errors import CancelledError, InvalidArgumentError, LadingError
from lading.formats import compression
from lading.formats.compression import Compression
from lading.formats.tar.entry import Data, Entry, EntryType
from lading.formats.tar.names import rooted
from lading.formats.tar.parser import TarParser

_CHUNK: Final = 1 << 18
_NODES: Final = {
    EntryType.CHAR: stat.S_IFCHR,
    EntryType.BLOCK: stat.S_IFBLK,
    EntryType.FIFO: stat.S_IFIFO,
}
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def is_archive(fd: int) -> bool:
    """Whether a regular file is a tar archive, compressed or not, with at least one entry."""
    parser = TarParser()
    try:
        for chunk in _inflated(fd, limit=_CHUNK):
            if parser.feed_entries(chunk):
                return True
            if parser.position > 64 * 1024 * 1024:
                return False
    except (LadingError, OSError, EOFError, lzma.LZMAError):
        return parser.entries > 0
    return False


def unpack(fd: int, target: int, rules: Rules) -> None:
    """Extract an archive into the directory ``target``, which is the root for everything in it.

    Raises `InvalidArgumentError` for a malformed one.
    """
    unpacker = _Unpacker(target, rules)
    parser = TarParser()
    try:
        for chunk in _inflated(fd):
            for event in parser.feed(chunk):
                unpacker.take(event)
            if rules.stopped():
                raise CancelledError("the build was cancelled")
        parser.finish()
        unpacker.finish()
    except (OSError, EOFError, lzma.LZMAError) as exc:
        raise InvalidArgumentError(f"cannot unpack the archive: {exc}") from exc
    finally:
        unpacker.close()


def _inflated(fd: int, *, limit: int = 0) -> Iterator[Buffer]:
    """The archive's bytes; with ``limit`` they are read in pieces of that many compressed bytes."""
    size = os.fstat(fd).st_size
    kind = compression.sniff(os.pread(fd, 64, 0))
    feed, finish = _decompressor(kind, size)
    offset = 0
    while data := os.pread(fd, limit or _CHUNK, offset):
        offset += len(data)
        yield from feed(data)
    yield from finish()


def _decompressor(
    kind: Compression, size: int
) -> tuple[Callable[[bytes], Iterator[Buffer]], Callable[[], Iterator[Buffer]]]:
    if kind in (Compression.XZ, Compression.BZIP2):
        engine = (
            lzma.LZMADecompressor(memlimit=512 << 20) if kind is Compression.XZ else bz2.BZ2Decompressor()
        )

        def feed(data: bytes) -> Iterator[Buffer]:
            if engine.eof:
                return
            yield engine.decompress(data, _CHUNK * 16)
            while not engine.needs_input and not engine.eof:
                yield engine.decompress(b"", _CHUNK * 16)

        return feed, lambda: iter(())
    decompressor = compression.decompressor(kind, compressed_size=size)
    return decompressor.feed, decompressor.finish


class _Unpacker:
    def __init__(self, root: int, rules: Rules) -> None:
        self._root = root
        self._rules = rules
        self._fd = -1
        self._entry: Entry | None = None
        self._directories: dict[str, Entry] = {}

    def take(self, event: Entry | Data) -> None:
        if isinstance(event, Data):
            self._write(event)
            return
        self.close()
        path = rooted(event.name)
        if not path:
            return
        if self._rules.exclude is not None and self._rules.exclude.matches(path):
            return
        if event.type is EntryType.DIRECTORY:
            os.close(paths.make_directories(self._root, path))
            self._directories[path] = event
            return
        above, _, name = path.rpartition("/")
        parent = paths.make_directories(self._root, above)
        try:
            with contextlib.suppress(FileNotFoundError):
                paths.remove(parent, name)
            self._make(parent, name, event)
        finally:
            os.close(parent)

    def _make(self, parent: int, name: str, entry: Entry) -> None:
        if entry.type is EntryType.FILE:
            self._fd = os.open(name, _NEW, 0o600, dir_fd=parent)
            self._entry = entry
            if entry.real_size:
                os.ftruncate(self._fd, entry.real_size)
            else:
                self.close()
            return
        if entry.type is EntryType.HARDLINK:
            with paths.parent_of(self._root, rooted(entry.linkname)) as (source, linked):
                os.link(linked, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            return
        if entry.type is EntryType.SYMLINK:
            os.symlink(entry.linkname, name, dir_fd=parent)
        else:
            os.mknod(
                name, _NODES[entry.type] | 0o600, os.makedev(entry.devmajor, entry.devminor), dir_fd=parent
            )
        self._dress(f"/proc/self/fd/{parent}/{name}", entry, follow=False)

    def _write(self, span: Data) -> None:
        if self._fd < 0:
            return
        view, offset = span.view, span.offset
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done
        if span.last:
            self.close()

    def close(self) -> None:
        """The present file is whole."""
        if self._fd >= 0:
            fd, entry, self._fd, self._entry = self._fd, self._entry, -1, None
            try:
                if entry is not None:
                    self._dress(f"/proc/self/fd/{fd}", entry, follow=True)
            finally:
                os.close(fd)

    def finish(self) -> None:
        """Directories get what is theirs when nothing more is made in them."""
        self.close()
        for path, entry in reversed(self._directories.items()):
            with paths.opened(self._root, path, os.O_RDONLY | os.O_DIRECTORY) as fd:
                self._dress(f"/proc/self/fd/{fd}", entry, follow=True)

    def _dress(self, place: str, entry: Entry, *, follow: bool) -> None:
        uid, gid = self._rules.owner or (entry.uid, entry.gid)
        os.chown(place, uid, gid, follow_symlinks=follow)
        if entry.type is not EntryType.SYMLINK:
            os.chmod(place, entry.mode)
        for name, value in entry.xattrs.items():
            if not name.startswith(("trusted.", "security.selinux")):
                with contextlib.suppress(OSError):
                    os.setxattr(place, name, value, follow_symlinks=follow)
        time = entry.mtime if self._rules.time is None else self._rules.time
        os.utime(place, ns=(time, time), follow_symlinks=follow)
