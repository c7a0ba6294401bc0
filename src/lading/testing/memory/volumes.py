"""`MemoryVolumes`: the port of volumes on plain directories, without a database and without mounts of its own."""

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio.lowlevel
from typing_extensions import override

from lading.core import volumes
from lading.core.volumes import LOCAL, Labels, Volume
from lading.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
)


@dataclass(slots=True)
class Shelf:
    """What outlives a daemon: the volumes, and what is mounted for whom."""

    root: Path
    volumes: dict[str, Volume] = field(default_factory=dict[str, Volume])
    mounted: dict[str, set[str]] = field(default_factory=dict[str, set[str]])


class MemoryVolumes(volumes.Volumes):
    """`volumes.Volumes` on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._held: dict[str, set[str]] = {}

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
        await anyio.lowlevel.checkpoint()
        if driver not in ("", LOCAL):
            raise UnsupportedError(driver)
        name, wanted = name or secrets.token_hex(32), dict(options or {})
        plain = name.replace("-", "").replace("_", "").replace(".", "")
        if not (2 <= len(name) <= 255 and plain.isalnum() and name.isascii() and name[0].isalnum()):
            raise InvalidArgumentError(name)
        if wanted and (set(wanted) - {"type", "o", "device"} or not {"type", "device"} <= set(wanted)):
            raise InvalidArgumentError(str(wanted))
        if any(value.startswith("-") for value in wanted.values()):
            raise InvalidArgumentError(str(wanted))
        if found := self.shelf.volumes.get(name):
            if wanted and wanted != found.options:
                raise ConflictError(name)
            return found, False
        made = Volume(name=name, created=1, labels=dict(labels or {}), options=wanted, anonymous=anonymous)
        (self.shelf.root / name).mkdir()
        self.shelf.volumes[name] = made
        return made, True

    @override
    def find(self, name: str) -> Volume:
        if name not in self.shelf.volumes:
            raise NotFoundError(f"get {name}: no such volume")
        return self.shelf.volumes[name]

    @override
    def list(self) -> Sequence[Volume]:
        return [self.shelf.volumes[name] for name in sorted(self.shelf.volumes)]

    @override
    def path(self, name: str) -> str:
        options = self.find(name).options
        return options["device"] if "bind" in options.get("o", "") else str(self.shelf.root / name)

    @override
    async def acquire(self, name: str, holder: str) -> str:
        await anyio.lowlevel.checkpoint()
        if not Path(self.path(name)).exists():
            raise FailedPreconditionError(f"failed to mount local volume {name}")
        self._held.setdefault(name, set()).add(holder)
        if self.find(name).options:
            self.shelf.mounted.setdefault(self.path(name), set()).add(holder)
        return self.path(name)

    @override
    async def release(self, name: str, holder: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._held.get(name, set()).discard(holder)
        if name in self.shelf.volumes and not self._held.get(name):
            self.shelf.mounted.pop(self.path(name), None)

    @override
    async def fill(self, name: str, copy: Callable[[str], None]) -> bool:
        await anyio.lowlevel.checkpoint()
        path = self.path(name)
        if self._held.get(name) or os.listdir(path):
            return False
        try:
            copy(path)
        except BaseException:
            shutil.rmtree(path)
            os.mkdir(path)
            raise
        return True

    @override
    def holders(self, name: str) -> Collection[str]:
        return frozenset(self._held.get(name, ()))

    @override
    async def recover(self, held: Mapping[str, Sequence[str]]) -> None:
        self._held = {name: set(holders) for name, holders in held.items()}
        kept = {self.path(name) for name, holders in held.items() if holders}
        self.shelf.mounted = {path: by for path, by in self.shelf.mounted.items() if path in kept}

    @override
    async def remove(self, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.find(name)
        if self._held.get(name):
            raise ConflictError(f"remove {name}: volume is in use")
        del self.shelf.volumes[name]
        shutil.rmtree(self.shelf.root / name, ignore_errors=True)

    @override
    async def usage(self, name: str) -> int:
        path = Path(self.path(name))
        return sum(file.stat().st_size for file in path.rglob("*"))
