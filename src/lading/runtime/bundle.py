"""Bundles: the directory that a shim works in, ``<state>/<namespace>/<id>/``.

====================  =====================================================================
``config.json``       the OCI runtime spec
``rootfs/``           where the shim mounts the root file system
``work``              symbolic link to ``<root>/<namespace>/<id>/``
``log``               FIFO of the shim's log; the daemon holds it open
``bootstrap.json``    where the shim listens and which protocol it speaks
``shim-binary-path``  the shim's executable, for cleaning up after its death
``home``              symbolic link to the directory that the shim was started in, where that is another one
``exit.json``         how the first process ended, once known
``log.json``          the runtime's own words (written by runc and crun)
====================  =====================================================================

A shim that may serve other containers before or after has a *home* of its own, a bundle without a container (see spares.py); the
container's bundle then only points to it.

All functions block, and none of them fsyncs: the state directory is on a tmpfs and means nothing after a reboot.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from lading.core.runtime import ContainerID, Exit
from lading.errors import AlreadyExistsError, DataLossError
from lading.runtime.linux import unmount_all

_CAP: Final = 1 << 20
_HOME: Final = "home"
_HOMES: Final = ".shims"


class Bootstrap(msgspec.Struct, frozen=True, kw_only=True):
    """What a shim printed when it started; also the form of ``bootstrap.json``."""

    version: int
    address: str
    protocol: str = "ttrpc"


class _LogLine(msgspec.Struct, frozen=True):
    level: str = ""
    msg: str = ""


class _RecordedExit(msgspec.Struct, frozen=True):
    status: int
    exited_at_nano: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """One bundle by its paths; it need not exist."""

    id: ContainerID
    path: Path
    work: Path

    @property
    def rootfs(self) -> Path:
        """Where the shim mounts the root file system."""
        return self.path / "rootfs"

    @property
    def log(self) -> Path:
        """The FIFO of the shim's log."""
        return self.path / "log"

    def create(self, spec: Mapping[str, Any], shim: Path, home: "Bundle | None" = None) -> None:
        """Make the directory and what a shim needs to find in it; all or nothing. ``home`` is of the shim that will serve it.

        Raises:
            AlreadyExistsError: There is a bundle.

        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError as exc:
            raise AlreadyExistsError(f"container {self.id} has a task", subject=self.id) from exc
        try:
            self.rootfs.mkdir(mode=0o711)
            if (group := _group_of_root(spec)) is not None:
                self._let_through(group)
            self.work.mkdir(parents=True, mode=0o711, exist_ok=True)
            (self.path / "work").symlink_to(self.work)
            if home is None:
                os.mkfifo(self.log, 0o700)
            else:
                self.log.symlink_to(home.log)
                (self.path / _HOME).symlink_to(home.path)
                self.save_bootstrap(home.bootstrap())
            self._write("config.json", json.dumps(spec).encode())
            self._write("shim-binary-path", os.fsencode(shim))
        except BaseException:
            self.remove()
            raise

    def _let_through(self, group: int) -> None:
        """With a user namespace the container's root is somebody else here, and has to pass; nobody else may (A6)."""
        for each in (self.path.parent.parent, self.path.parent, self.rootfs):
            each.chmod(0o711)  # whatever the daemon's umask is
        os.chown(self.path, -1, group)
        self.path.chmod(0o710)

    def remove(self) -> None:
        """Unmount the root file system, remove the bundle and the socket. Idempotent; a crash leaves what `scan` sweeps."""
        unmount_all(self.path)
        if not self._is_guest:
            self.remove_socket()
        hidden = self.path.with_name(f".{self.path.name}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def remove_socket(self) -> None:
        """Remove what a shim listened on, which one that was killed leaves. Idempotent."""
        with contextlib.suppress(DataLossError, OSError):
            os.unlink(self.bootstrap().address.removeprefix("unix://"))

    @property
    def _is_guest(self) -> bool:
        return (self.path / _HOME).is_symlink()

    def home(self) -> "Bundle":
        """The bundle that its shim was started in: this one, unless it is a guest."""
        if not self._is_guest:
            return self
        path = Path(os.readlink(self.path / _HOME))
        return Bundle(ContainerID(path.name), path, self.work.parent / f".{path.name}")

    def save_bootstrap(self, bootstrap: Bootstrap) -> None:
        """Record where the shim listens, for the next daemon."""
        self._write("bootstrap.json", msgspec.json.encode(bootstrap))

    def bootstrap(self) -> Bootstrap:
        """Where the shim listens.

        Raises:
            DataLossError: It was never recorded, or the record is damaged.

        """
        try:
            return msgspec.json.decode(self._read("bootstrap.json"), type=Bootstrap)
        except (OSError, msgspec.MsgspecError) as exc:
            raise DataLossError(
                f"the bundle of {self.id} does not say where its shim is", subject=self.id
            ) from exc

    def shim(self) -> Path:
        """The shim's executable.

        Raises:
            DataLossError: It was never recorded.

        """
        try:
            return Path(os.fsdecode(self._read("shim-binary-path")))
        except OSError as exc:
            raise DataLossError(f"the bundle of {self.id} does not name its shim", subject=self.id) from exc

    def save_exit(self, end: Exit) -> None:
        """Record how the first process ended, in case that the shim dies before it is asked again."""
        with contextlib.suppress(FileNotFoundError):  # the task was deleted meanwhile
            self._write("exit.json", msgspec.json.encode(_RecordedExit(end.status, end.exited_at_nano)))

    def exit(self) -> Exit | None:
        """How the first process ended, if that was recorded."""
        try:
            recorded = msgspec.json.decode(self._read("exit.json"), type=_RecordedExit)
        except (OSError, msgspec.MsgspecError):
            return None
        return Exit(status=recorded.status, exited_at_nano=recorded.exited_at_nano)

    def runtime_error(self) -> str:
        """The last error that runc or crun wrote to its log, or empty."""
        message = ""
        with contextlib.suppress(OSError):
            for line in self._read("log.json").splitlines():
                with contextlib.suppress(msgspec.MsgspecError):
                    entry = msgspec.json.decode(line, type=_LogLine)
                    if entry.level == "error":
                        message = entry.msg.strip()
        return message

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.path / f".{name}"
        temporary.write_bytes(data)
        os.rename(temporary, self.path / name)

    def _read(self, name: str) -> bytes:
        with (self.path / name).open("rb") as file:
            return file.read(_CAP)


@dataclass(frozen=True, slots=True)
class Bundles:
    """The bundles of one namespace."""

    state: Path
    root: Path
    namespace: str

    def bundle(self, id: ContainerID) -> Bundle:
        """The bundle of a container, existing or not."""
        return Bundle(id, self.state / self.namespace / id, self.root / self.namespace / id)

    def new_home(self) -> Bundle:
        """Where a shim may be started that serves one container after another; it does not exist yet."""
        name = f"shim-{secrets.token_hex(8)}"
        return Bundle(
            ContainerID(name),
            self.state / _HOMES / self.namespace / name,
            self.root / self.namespace / f".{name}",
        )

    def unused_homes(self) -> list[Bundle]:
        """Homes of shims that serve no container. To be asked while no shim is being started."""
        used = {bundle.home().path for bundle in self.scan()}
        return [home for home in self._homes() if home.path not in used]

    def _homes(self) -> list[Bundle]:
        directory = self.state / _HOMES / self.namespace
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            return []
        return [
            Bundle(ContainerID(name), directory / name, self.root / self.namespace / f".{name}")
            for name in names
        ]

    def scan(self) -> Iterator[Bundle]:
        """Bundles that exist. Half-removed ones are swept on the way."""
        directory = self.state / self.namespace
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            return
        for name in names:
            if name.startswith("."):
                unmount_all(directory / name)
                shutil.rmtree(directory / name, ignore_errors=True)
            elif (directory / name).is_dir():
                yield self.bundle(ContainerID(name))


def _group_of_root(spec: Mapping[str, Any]) -> int | None:
    """Which group of the machine is root's in the container's user namespace; ``None`` without one."""
    linux: Mapping[str, Any] = spec.get("linux") or {}
    maps: Sequence[Mapping[str, int]] = linux.get("gidMappings") or ()
    return next((each["hostID"] for each in maps if each["containerID"] == 0), None)
