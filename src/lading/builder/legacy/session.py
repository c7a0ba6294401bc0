"""An uploaded context as a session: the daemon lends itself a directory that the client sent."""

import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from typing_extensions import override

from lading.core.remotes import Credentials
from lading.core.session import ClientContent, Session, Stream, Synced, SyncMemory, SyncWish, TreePart
from lading.errors import NotFoundError, UnsupportedError
from lading.formats.dockerfile.patterns import Matcher
from lading.kit import aio


class UploadSession(Session):
    """A session that has the directory ``root`` under every name, and credentials; nothing else."""

    def __init__(self, id: str, root: Path, credentials: Mapping[str, Credentials]) -> None:
        self._id = id
        self._root = root
        self._credentials = credentials

    @property
    @override
    def id(self) -> str:
        return self._id

    @property
    @override
    def shared_key(self) -> str:
        return "legacy"

    @override
    def offers(self, method: str) -> bool:
        return False

    @override
    async def sync(
        self,
        wish: SyncWish,
        into: str,
        *,
        told: Callable[[int], None] | None = None,
        memory: SyncMemory | None = None,
    ) -> Synced:
        if memory is not None:
            memory.entries = ()  # what another kind of client may have sent there is gone
        return await aio.run(aio.DISK, Copy(self._root, Path(into), wish).run)

    @override
    async def send_tree(self, index: int, parts: Sequence[TreePart], *, epoch: int | None = None) -> None:
        raise _nothing("outputs")

    @override
    def open_output(self, index: int, metadata: Mapping[str, str]) -> AbstractAsyncContextManager[Stream]:
        raise _nothing("outputs")

    @override
    async def credentials(self, host: str) -> Credentials | None:
        return self._credentials.get(host)

    @override
    async def secret(self, id: str) -> bytes:
        raise NotFoundError(f"secret {id} not found", subject=id)

    @override
    async def check_agent(self, id: str) -> None:
        raise NotFoundError(f"agent {id} not found", subject=id)

    @override
    def open_agent(self, id: str) -> AbstractAsyncContextManager[Stream]:
        raise _nothing("agents")

    @override
    def upload(self, path: str, host: str) -> AsyncIterator[bytes]:
        raise _nothing("uploads")

    @override
    def content(self, store: str) -> ClientContent:
        raise _nothing("content")


def _nothing(what: str) -> UnsupportedError:
    return UnsupportedError(f"a client of the legacy builder has no {what}", hint="build with BuildKit")


class Copy:
    """Puts what is wanted of one directory into another, and nothing else. Everything belongs to root. Blocking.

    What the other had goes first: it is of an earlier build, maybe of another project, and a file's name, size and time, which
    tar tells in whole seconds, do not say whether it is the same. Both directories are ours: what stands in the one was unpacked
    by us, and the other is not reachable by anyone else.
    """

    def __init__(self, source: Path, target: Path, wish: SyncWish) -> None:
        self._source = source
        self._target = target
        self._exclude = Matcher(wish.exclude)
        self._files = self._bytes = 0
        self._wanted = None if not wish.follow else self._followed(wish.follow)

    def run(self) -> Synced:
        """Do it."""
        for name in os.listdir(self._target):
            _remove(self._target / name)
        self._directory("")
        return Synced(
            files=self._files,
            bytes=self._bytes,
            transferred_files=self._files,
            transferred_bytes=self._bytes,
        )

    def _followed(self, paths: Sequence[str]) -> Matcher:
        """The wanted paths, and what links among them point to inside the context."""
        wanted: dict[str, None] = {}
        open_ = [path.strip("/") for path in paths]
        while open_:
            path = open_.pop()
            if path in wanted or len(wanted) > 10_000:
                continue
            wanted[path] = None
            place = self._source / path
            if place.is_symlink():
                inside = os.path.normpath(os.path.join("/", os.path.dirname(path), os.readlink(place)))
                open_.append(inside.strip("/"))
        return Matcher(wanted)

    def _directory(self, path: str) -> None:
        with os.scandir(self._source / path) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                inner = f"{path}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    if self._descends(inner):
                        self._enter(inner, entry.stat(follow_symlinks=False))
                elif self._admits(inner):
                    self._entry(entry, self._target / inner)

    def _admits(self, path: str) -> bool:
        if self._exclude.matches(path):
            return False
        return self._wanted is None or self._wanted.matches(path)

    def _descends(self, path: str) -> bool:
        if self._exclude.matches(path) and not self._exclude.inverts:
            return False
        return self._wanted is None or self._wanted.matches(path) or self._wanted.may_reach(path)

    def _enter(self, path: str, status: os.stat_result) -> None:
        target = self._target / path
        target.mkdir()
        self._directory(path)
        if not self._admits(path) and not os.listdir(target):
            target.rmdir()
            return
        target.chmod(stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _entry(self, entry: os.DirEntry[str], target: Path) -> None:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            target.symlink_to(os.readlink(entry.path))
        elif stat.S_ISREG(status.st_mode):
            shutil.copyfile(entry.path, target)
            target.chmod(stat.S_IMODE(status.st_mode))
            self._bytes += status.st_size
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(target, stat.S_IMODE(status.st_mode))
        else:
            return
        self._files += 1
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
