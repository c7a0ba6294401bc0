"""Files of containers: copied out and in, compared with the image, exported. The service; the work is done by `tree*`."""

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from lading.containers import mountpoints, tree, tree_reader, users
from lading.containers.binds import Bind
from lading.containers.directories import Directories
from lading.containers.environment import Environment
from lading.containers.model import Container
from lading.containers.tree import Tree
from lading.containers.tree_reader import PathStat
from lading.containers.tree_writer import CopyOptions, TreeWriter
from lading.containers.volumeholding import VolumeHolding
from lading.containers.volumemounts import VolumeMount
from lading.core.diff import Change
from lading.core.runtime import Status
from lading.core.snapshots import SnapshotKey
from lading.errors import ConflictError, InvalidArgumentError, LadingError, PermissionDeniedError
from lading.kit import aio
from lading.transfer.archive_stream import inflated

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What is being copied out: what the path is, and its tar."""

    stat: PathStat
    chunks: AsyncIterator[bytes]


class FileService:
    """The files of one daemon's containers, running or not.

    While files of a stopped container are copied it cannot start: its file system would be mounted twice.
    """

    def __init__(self, environment: Environment, directories: Directories, holding: VolumeHolding) -> None:
        self._env = environment
        self._directories = directories
        self._holding = holding

    async def stat(self, container: Container, path: str) -> PathStat:
        """What is at a path. Raises `NotFoundError`."""
        place = _checked(path)
        async with self._open(container) as opened:
            return await aio.run(aio.DATA, tree_reader.look, opened, place, container.id)

    @contextlib.asynccontextmanager
    async def open_archive(self, container: Container, path: str) -> AsyncGenerator[Archive]:
        """What is at a path, as a tar whose top entry has the last name of the path. Raises `NotFoundError`."""
        place = _checked(path)
        async with self._open(container) as opened:
            found = await aio.run(aio.DATA, tree_reader.look, opened, place, container.id)
            chunks = await aio.run(aio.DATA, _begin, opened, place, container.id)
            self._env.bus.publish("container", "archive-path", container.id, container.attributes())
            async with _on_threads(chunks) as flow:
                yield Archive(stat=found, chunks=flow)

    async def extract(
        self,
        container: Container,
        path: str,
        source: AsyncIterable[bytes],
        *,
        keep_kind: bool = False,
        own: bool = False,
    ) -> None:
        """Unpack a tar, packed or not, into a directory. ``own`` makes the container's user the owner of everything.

        Raises:
            NotFoundError: There is no such path.
            InvalidArgumentError: It is no directory, or the archive is malformed or does not fit what is there.
            PermissionDeniedError: It is read-only.

        """
        place = _checked(path)
        async with self._open(container) as opened:
            owner = await aio.run(aio.DATA, self._check_target, opened, container, place, own)
            options = CopyOptions(owner=owner, keep_kind=keep_kind)
            writer = await aio.run(aio.DATA, TreeWriter, opened, tree_reader.bare(place), options)
            try:
                async with contextlib.aclosing(inflated(source)) as chunks:
                    async for chunk in chunks:
                        await aio.run(aio.DATA, writer.write, chunk)
                await aio.run(aio.DATA, writer.finish)
            finally:
                writer.close()
        self._env.bus.publish("container", "extract-to-dir", container.id, container.attributes())

    def _check_target(
        self, opened: Tree, container: Container, path: str, own: bool
    ) -> tuple[int, int] | None:
        target = tree_reader.bare(path)
        try:
            os.close(opened.open(target, os.O_PATH | os.O_DIRECTORY))
        except NotADirectoryError as exc:
            raise InvalidArgumentError("extraction point is not a directory", subject=path) from exc
        except OSError as exc:
            raise tree_reader.missing(path, container.id) from exc
        self._check_writable(container, opened.resolved(target))
        if not own or not container.document.user:
            return None
        user = users.resolve(opened, container.document.user)
        return user.uid, user.gid

    def _check_writable(self, container: Container, target: str) -> None:
        """Say in Docker's words what the kernel would say in its own, or could not say of a stopped container."""
        mounts: list[Bind | VolumeMount] = [*container.binds, *container.document.volumes]
        on = [each for each in mounts if target == each.target or target.startswith(f"{each.target}/")]
        if on:
            if max(on, key=lambda each: len(each.target)).read_only:
                raise PermissionDeniedError("mounted volume is marked read-only", subject=target)
            return
        on_tmpfs = any(
            target == each.target or target.startswith(f"{each.target}/") for each in container.tmpfs
        )
        if container.host.readonly_rootfs and not on_tmpfs:
            raise PermissionDeniedError("container rootfs is marked read-only", subject=target)

    async def changes(self, container: Container) -> list[Change]:
        """What the container has changed in its image's files."""
        return mountpoints.own(await self._env.differ.changes(container.record.snapshot_key))

    @contextlib.asynccontextmanager
    async def open_export(self, container: Container) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The root file system as a tar, without volumes and other mounts."""
        async with self._open(container, binds=False) as opened:
            alone = await aio.run(aio.DATA, tree.without_mounts, opened)
            try:
                async with _on_threads(await aio.run(aio.DATA, tree_reader.export, alone)) as flow:
                    self._env.bus.publish("container", "export", container.id, container.attributes())
                    yield flow
            finally:
                await aio.run(aio.DATA, alone.close)

    @contextlib.asynccontextmanager
    async def _open(self, container: Container, *, binds: bool = True) -> AsyncGenerator[Tree]:
        opened = await self._running(container)
        if opened is not None:
            try:
                yield opened
            finally:
                await aio.run(aio.DATA, opened.close)
            return
        async with container.lock:
            if container.removed.is_set() or container.state.removing:
                raise ConflictError(f"can't copy files of container {container.id}: it is being removed")
            if (opened := await self._running(container)) is None:
                key = SnapshotKey(container.record.snapshot_key)
                mounts = await self._env.root_mounts(key, container.document.manifest)
                scratch = self._directories.durable(container) / "rootfs"
                await aio.run(aio.DISK, scratch.mkdir, mode=0o700, parents=True, exist_ok=True)
                async with self._holding.visiting(container) as volumes:
                    shown = [*container.binds, *volumes] if binds else ()
                    remapped = self._env.remapping_of(container.host)
                    opened = await aio.run(aio.DATA, tree.open_stopped, mounts, shown, scratch, remapped)
                    try:
                        yield opened
                    finally:
                        await aio.run(aio.DATA, opened.close)
                return
            try:
                yield opened
            finally:
                await aio.run(aio.DATA, opened.close)

    async def _running(self, container: Container) -> Tree | None:
        """The tree of a running container, else nothing. The shim is asked last: then the process was still the container's."""
        if container.task is None or not container.state.running:
            return None
        try:
            opened = await aio.run(aio.DATA, tree.open_running, container.state.pid)
        except LadingError:
            return None
        try:
            found = await container.task.state()
        except LadingError:
            found = None
        if found is None or found.status is Status.STOPPED or found.pid != container.state.pid:
            await aio.run(aio.DATA, opened.close)
            return None
        return opened


def _checked(path: str) -> str:
    if not path or "\0" in path:
        raise InvalidArgumentError("bad parameter: 'path' cannot be empty")
    return tree_reader.absolute(path)


def _begin(opened: Tree, path: str, container: str) -> Generator[bytes]:
    return tree_reader.archive(opened, path, container=container)


@contextlib.asynccontextmanager
async def _on_threads(chunks: Generator[bytes]) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Ask a blocking generator for its items on data threads; it is closed on leaving."""

    async def flow() -> AsyncGenerator[bytes]:
        while (chunk := await aio.run(aio.DATA, _next, chunks)) is not None:
            yield chunk

    try:
        async with contextlib.aclosing(flow()) as flowing:
            yield flowing
    finally:
        await aio.run(aio.DATA, chunks.close)


def _next(chunks: Iterator[bytes]) -> bytes | None:
    return next(chunks, None)
