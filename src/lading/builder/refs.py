"""`Ref`: an edge of a build that somebody may look into."""

import errno
import functools
import os
import posixpath
import secrets
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, TypeVar

from typing_extensions import override

from lading.builder.errors import VertexError
from lading.builder.ops.files import paths
from lading.builder.ops.layers import Layers
from lading.builder.ops.trees import NOTHING, Tree, Trees
from lading.builder.results import FileStat, Layer, LayerForm, Ref
from lading.builder.solver.live import Solved
from lading.core.leases import LeaseID
from lading.core.snapshots import SnapshotName
from lading.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from lading.formats.dockerfile.patterns import match
from lading.formats.llb.definition import Definition
from lading.formats.llb.metadata import decode_locations

T = TypeVar("T")
READ_LIMIT: Final = 64 * 1024 * 1024
"""Bytes that `read_file` gives at most."""
_PATH_ERRORS: Final = (errno.ENAMETOOLONG, errno.ELOOP)
"""What is the fault of a path, or of links on its way, and not of the tree."""


class SolvedRef(Ref):
    """A ref over a function that solves it, once."""

    def __init__(
        self,
        definition: Definition,
        solve: Callable[[], Awaitable[Solved[Tree]]] | None,
        trees: Trees,
        layers: Layers,
    ) -> None:
        self._id = secrets.token_hex(12)
        self._definition = definition
        self._solve = solve
        self._trees = trees
        self._layers = layers

    @property
    @override
    def id(self) -> str:
        return self._id

    @property
    @override
    def definition(self) -> Definition:
        return self._definition

    async def tree(self) -> Tree:
        """Solve it. Raises `VertexError`, with where it stands in the source."""
        return (await self.solved()).result

    async def solved(self) -> Solved[Tree]:
        """As `tree`, with the keys under which it is known."""
        if self._solve is None:
            return Solved(result=NOTHING)
        try:
            return await self._solve()
        except VertexError as exc:
            raise self._located(exc) from exc

    def _located(self, error: VertexError) -> VertexError:
        if error.source is not None or not self._definition.source:
            return error
        places = decode_locations(self._definition.source).get(error.vertex)
        if not places:
            return error
        return VertexError(
            error.message,
            vertex=error.vertex,
            exit_code=error.exit_code,
            source=places[0].file,
            ranges=places[0].ranges,
        )

    @override
    async def evaluate(self) -> None:
        await self.tree()

    @override
    async def snapshot(self) -> SnapshotName | None:
        return await self._trees.snapshot(await self.tree())

    @override
    def mount(self) -> AbstractAsyncContextManager[str]:
        return self._mount()

    @asynccontextmanager
    async def _mount(self) -> AsyncGenerator[str]:
        async with self._trees.mounted(await self.tree()) as path:
            yield path

    @override
    async def layers(self, form: LayerForm, *, lease: LeaseID) -> list[Layer]:
        return await self._layers.layers(await self.tree(), form, lease)

    # Looking into it. Every path is resolved by the kernel inside the tree.

    async def _look(self, path: str, function: Callable[[int], T]) -> T:
        try:
            return await self._trees.look(await self.tree(), function)
        except (FileNotFoundError, NotADirectoryError) as exc:
            raise NotFoundError(f"{_shown(path)}: no such file or directory", subject=_shown(path)) from exc
        except OSError as exc:
            if exc.errno not in _PATH_ERRORS:
                raise
            problem = os.strerror(exc.errno).lower()
            raise InvalidArgumentError(f"{_shown(path)}: {problem}", subject=_shown(path)) from exc

    @override
    async def read_file(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return await self._look(path, functools.partial(_read, path, offset, length))

    @override
    async def read_dir(self, path: str, *, pattern: str = "") -> list[FileStat]:
        return await self._look(path, functools.partial(_list, path, pattern))

    @override
    async def stat(self, path: str) -> FileStat:
        return await self._look(path, functools.partial(_stat, path))


def _shown(path: str) -> str:
    """A path for an error: frontends choose it, and how long it is."""
    return path[:200]


def _read(path: str, offset: int, length: int | None, root: int) -> bytes:
    if offset < 0 or (length or 0) < 0:
        raise InvalidArgumentError(
            f"{_shown(path)} has no {length} bytes from {offset}", subject=_shown(path)
        )
    with paths.opened(root, path) as found:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArgumentError(f"{_shown(path)} is no regular file", subject=_shown(path))
        wanted = max(0, status.st_size - offset) if length is None else length
        if wanted > READ_LIMIT:
            raise ResourceExhaustedError(f"{_shown(path)} has over {READ_LIMIT} bytes", subject=_shown(path))
        with open(f"/proc/self/fd/{found}", "rb", buffering=0) as file:
            parts: list[bytes] = []
            while wanted and (part := os.pread(file.fileno(), wanted, offset)):
                parts.append(part)
                offset, wanted = offset + len(part), wanted - len(part)
    return b"".join(parts)


def _list(path: str, pattern: str, root: int) -> list[FileStat]:
    fd = paths.open_directory(root, path)
    try:
        names = sorted(os.listdir(fd), key=os.fsencode)
        return [_of(fd, name, name) for name in names if not pattern or match(pattern, name)]
    finally:
        os.close(fd)


def _stat(path: str, root: int) -> FileStat:
    parts = paths.parts_of(path)
    if not parts:
        return _of(root, ".", "/")
    with paths.parent_of(root, path) as (parent, name):
        return _of(parent, name, posixpath.basename(name))


def _of(parent: int, name: str, shown: str) -> FileStat:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    return FileStat(
        path=shown,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size,
        mtime=status.st_mtime_ns,
        link=os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else "",
        devmajor=os.major(status.st_rdev),
        devminor=os.minor(status.st_rdev),
    )
