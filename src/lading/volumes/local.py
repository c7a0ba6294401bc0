"""`LocalVolumes`: each volume is a directory ``<root>/<name>/_data``, as Docker has it."""

import contextlib
import os
import re
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
from typing_extensions import override

from lading.core import volumes
from lading.core.volumes import LOCAL, Labels, Volume
from lading.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from lading.kit import aio, fs, linux
from lading.volumes import devices

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_NAME_MAX: Final = 255
_REMOVING: Final = ".removing-"
_FILLING: Final = "_filling"


@dataclass(slots=True)
class _Held:
    """Who holds a volume. ``lock`` orders what changes its files as a whole."""

    holders: set[str] = field(default_factory=set[str])
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class LocalVolumes(volumes.Volumes):
    """See `lading.core.volumes`. Make it with `open_volumes`."""

    def __init__(self, store: volumes.Store, root: Path, owner: tuple[int, int] = (0, 0)) -> None:
        self._store = store
        self._root = root
        self._owner = owner
        self._volumes: dict[str, Volume] = {}
        self._held: dict[str, _Held] = {}
        self._creating = anyio.Lock()

    async def _open(self) -> None:
        await aio.run(aio.DISK, fs.make_directories, self._root, mode=0o701)
        self._volumes = {each.name: each for each in await self._store.list()}

    def _directory(self, name: str) -> Path:
        return self._root / name

    def _of(self, name: str) -> _Held:
        return self._held.setdefault(name, _Held())

    @override
    async def create(
        self,
        name: str = "",
        *,
        driver: str = LOCAL,
        labels: Labels | None = None,
        options: Labels | None = None,
        anonymous: bool = False,
    ) -> tuple[Volume, bool]:
        chosen = name or secrets.token_hex(32)
        _check_name(chosen)
        if driver not in ("", LOCAL):
            raise UnsupportedError(
                f"error looking up volume plugin {driver}: plugin {driver!r} not found",
                hint="use the driver local",
            )
        wanted = dict(options or {})
        devices.check(wanted)
        async with self._creating:
            if found := self._volumes.get(chosen):
                if wanted and wanted != dict(found.options):
                    raise ConflictError(
                        f"A volume named {chosen} already exists with other options. Choose a different volume name.",
                        subject=chosen,
                    )
                return found, False
            volume = Volume(
                name=chosen,
                created=time.time_ns(),
                labels=dict(labels or {}),
                options=wanted,
                anonymous=anonymous,
            )
            with anyio.CancelScope(shield=True):
                try:
                    await aio.run(aio.DISK, self._make, chosen)
                except OSError as exc:
                    raise UnavailableError(f"cannot make volume {chosen}: {exc.strerror}") from exc
                await self._store.create(volume)
                self._volumes[chosen] = volume
        return volume, True

    def _make(self, name: str) -> None:
        directory = self._directory(name)
        if directory.exists():  # what a killed daemon left of one that was never acknowledged
            self._delete(directory)
        directory.mkdir(mode=0o701)
        data = directory / "_data"
        data.mkdir()
        data.chmod(0o755)
        os.chown(data, *self._owner)
        fs.fsync_directory(directory)
        fs.fsync_directory(self._root)

    @override
    def find(self, name: str) -> Volume:
        try:
            return self._volumes[name]
        except KeyError:
            raise NotFoundError(f"get {name}: no such volume", subject=name) from None

    @override
    def list(self) -> Sequence[Volume]:
        return [self._volumes[name] for name in sorted(self._volumes)]

    @override
    def path(self, name: str) -> str:
        return str(self._directory(self.find(name).name) / "_data")

    @override
    async def acquire(self, name: str, holder: str) -> str:
        self.find(name)
        held = self._of(name)
        async with held.lock:
            volume = self.find(name)
            await aio.run(aio.DISK, self._check_there, name)
            if volume.options and not held.holders:
                with anyio.CancelScope(shield=True):
                    await aio.run(aio.DISK, devices.mount, volume.options, self.path(name))
            held.holders.add(holder)
        return self.path(name)

    def _check_there(self, name: str) -> None:
        """A container must not get another directory in the place of files that are lost, nor an error without a name."""
        if not os.path.isdir(self.path(name)):
            raise FailedPreconditionError(
                f"the files of volume {name} are gone: {self.path(name)} is not there",
                hint=f"bring the directory back, or remove the volume with docker volume rm {name}",
                subject=name,
            )

    @override
    async def release(self, name: str, holder: str) -> None:
        held = self._held.get(name)
        if held is None:
            return
        async with held.lock:
            if holder not in held.holders:
                return
            held.holders.discard(holder)
            volume = self._volumes.get(name)
            if volume and volume.options and not held.holders:
                with anyio.CancelScope(shield=True):
                    await self._unmount(name)

    async def _unmount(self, name: str) -> None:
        try:
            await aio.run(aio.DISK, devices.unmount, self.path(name))
        except OSError as exc:
            raise UnavailableError(f"cannot unmount volume {name}: {exc.strerror}") from exc

    @override
    async def fill(self, name: str, copy: Callable[[str], None]) -> bool:
        volume = self.find(name)
        held, filled = self._of(name), False
        async with held.lock:
            if held.holders:
                return False
            await aio.run(aio.DISK, self._check_there, name)
            with anyio.CancelScope(shield=True):
                if volume.options:
                    await aio.run(aio.DISK, devices.mount, volume.options, self.path(name))
                    try:
                        filled = await aio.run(aio.DATA, _fill_mounted, Path(self.path(name)), copy)
                    finally:
                        await self._unmount(name)
                else:
                    filled = await aio.run(aio.DATA, _fill_plain, self._directory(name), copy)
        return filled

    @override
    def holders(self, name: str) -> Collection[str]:
        held = self._held.get(name)
        return frozenset(held.holders) if held else frozenset()

    @override
    async def recover(self, held: Mapping[str, Sequence[str]]) -> None:
        for name, holders in held.items():
            self._of(name).holders.update(holders)
        await aio.run(aio.DISK, self._recover, {name for name, holders in held.items() if holders})

    def _recover(self, held: set[str]) -> None:
        mounted = linux.mount_points(str(self._root))
        for name in os.listdir(self._root):
            directory = self._directory(name)
            if name not in self._volumes:
                self._delete(directory)
                continue
            if name not in held and any(point.startswith(f"{directory}/") for point in mounted):
                devices.unmount(str(directory))
            if (directory / _FILLING).exists():
                shutil.rmtree(directory / _FILLING)

    @override
    async def remove(self, name: str) -> None:
        self.find(name)
        held = self._of(name)
        async with held.lock:
            self.find(name)
            if held.holders:
                raise ConflictError(
                    f"remove {name}: volume is in use - [{', '.join(sorted(held.holders))}]", subject=name
                )
            with anyio.CancelScope(shield=True):
                await self._store.delete(name)
                del self._volumes[name]
                await aio.run(aio.DISK, self._delete, self._directory(name))
        self._held.pop(name, None)

    def _delete(self, directory: Path) -> None:
        """Out of the way at once, then gone; what is mounted in it is not touched."""
        devices.unmount(str(directory))
        doomed = directory
        if not directory.name.startswith(_REMOVING):
            doomed = self._root / f"{_REMOVING}{secrets.token_hex(8)}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(directory, doomed)
        if not linux.mount_points(str(doomed)):
            shutil.rmtree(doomed, ignore_errors=True)

    @override
    async def usage(self, name: str) -> int:
        if self.find(name).options:
            return 0
        return await aio.run(aio.DATA, _usage, self.path(name))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _NAME_MAX:
        raise InvalidArgumentError(
            f"create {name[:64]}: {name[:64]!r} includes invalid characters for a local volume name, only "
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
            subject=name[:64],
        )


def _fill_plain(directory: Path, copy: Callable[[str], None]) -> bool:
    """Fill beside, then take the empty directory's place: a crash leaves it empty or whole."""
    data, filling = directory / "_data", directory / _FILLING
    if os.listdir(data):
        return False
    shutil.rmtree(filling, ignore_errors=True)
    filling.mkdir()
    found = data.stat()
    os.chown(filling, found.st_uid, found.st_gid)
    # Whatever the umask: an image without this directory changes nothing.
    filling.chmod(stat.S_IMODE(found.st_mode))
    try:
        copy(str(filling))
        fd = os.open(filling, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            linux.syncfs(fd)
        finally:
            os.close(fd)
        os.rename(filling, data)
    except BaseException:
        shutil.rmtree(filling, ignore_errors=True)
        raise
    fs.fsync_directory(directory)
    return True


def _fill_mounted(data: Path, copy: Callable[[str], None]) -> bool:
    if set(os.listdir(data)) - {"lost+found"}:
        return False
    copy(str(data))
    return True


def _usage(path: str) -> int:
    """Bytes as du(1) counts them."""
    done = subprocess.run(["du", "-sx", "-B1", "--", path], capture_output=True, check=False, text=True)
    first = done.stdout.split(maxsplit=1)
    return int(first[0]) if first and first[0].isdigit() else 0


@asynccontextmanager
async def open_volumes(
    store: volumes.Store, root: Path, owner: tuple[int, int] = (0, 0)
) -> AsyncGenerator[LocalVolumes]:
    """Volumes with their records in ``store`` and their files below ``root``; new ones belong to ``owner``.

    Leaving leaves everything as it is.
    """
    made = LocalVolumes(store, root, owner)
    await made._open()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    yield made
