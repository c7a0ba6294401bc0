"""Starting shims, and cleaning up after dead ones, through their executable.

Two launch protocols exist (containerd's ``core/runtime/v2``): shims from 2.3 on read ``BootstrapParams`` on stdin and need
them; some older ones refuse them, because they parse stdin as runtime options. containerd's own shims tell it by their
version, for which `Launcher.look` asks. Of others the new protocol is tried first, the old one on failure. Either way
the answer is remembered for that very file. containerd's own runc shim needs neither; see direct.py.
"""

import os
import re
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from google.protobuf.message import DecodeError

from lading.core.runtime import Exit
from lading.errors import FailedPreconditionError, UnavailableError, UnsupportedError
from lading.kit import aio
from lading.runtime import direct
from lading.runtime._pb import task_pb2
from lading.runtime.bundle import Bootstrap, Bundle
from lading.runtime.linux import children_named, processes_called_with
from lading.runtime.wire import TASK_SERVICES, exit_of

_SHIMS: Final = aio.Lane("shims", 8)
_UMASK: Final = 0o022
"""containerd's. The runtime makes missing mount points with it, in the container's own tree: others must be able to pass."""
_TIMEOUT: Final = 60
_SOCKET_PATH: Final = 106
"""Bytes of a unix socket's path that every shim can bind."""
_VERSION: Final = re.compile(rb"containerd-shim-runc-v2:\s+Version:\s+v?(\d+)\.(\d+)\.")
_BOOTSTRAP: Final = (2, 3)
"""The first version of containerd's own shims that reads ``BootstrapParams``."""
_COMPAT_VERSION: Final = "2.3.0"
"""The containerd whose launch protocol this is."""


class ShimLaunchError(FailedPreconditionError):
    """The shim's executable failed; the message has its words."""

    code = "shim-launch-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """Runs shim executables for one namespace.

    Args:
        namespace: As shims see it.
        ttrpc_address: Path of the socket on which events are taken.
        grpc_address: Path of a containerd-compatible gRPC socket. Shims also derive their own socket's name from it, so
            it must differ between daemons of one machine even when nothing listens there.
        publish_binary: What a shim runs to publish an event when it has no socket.
        socket_directory: Where new shims may put their socket.
        adopt: Told of each process that a shim's executable left as our orphan.
        debug: Ask shims for debug logs.

    """

    namespace: str
    ttrpc_address: str
    grpc_address: str
    publish_binary: str
    socket_directory: Path
    adopt: Callable[[int], None]
    debug: bool = False
    _legacy: dict[tuple[int, int, int], bool] = field(default_factory=dict[tuple[int, int, int], bool])
    _direct: dict[tuple[int, int, int], int] = field(default_factory=dict[tuple[int, int, int], int])
    """Shims whose server is started without their starter, with the Task API that it serves."""
    _running: set[int] = field(default_factory=set[int])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def look(self, shim: Path) -> None:
        """Find out beforehand, where it can be, how a shim is started; its file is in memory then, too. Never raises."""
        result = await aio.run(_SHIMS, _version, shim)
        match = _VERSION.search(result)
        if match is None:
            return
        key, version = await self._key(shim), (int(match[1]), int(match[2]))
        self._legacy[key] = version < _BOOTSTRAP
        if (
            serves := direct.task_version(version)
        ) is not None and not self.debug:  # else it wants more sockets
            self._direct[key] = serves

    async def distrust(self, shim: Path) -> bool:
        """A server that was started directly did not come up: use its starter from now on. Whether that is news."""
        return self._direct.pop(await self._key(shim), None) is not None

    @staticmethod
    async def _key(shim: Path) -> tuple[int, int, int]:
        stat = await aio.run(aio.DISK, os.stat, shim)
        return stat.st_dev, stat.st_ino, stat.st_mtime_ns

    async def start(self, shim: Path, bundle: Bundle) -> Bootstrap:
        """Start the shim of a bundle. Cancellation waits for the executable, at most a minute.

        Raises:
            ShimLaunchError: Both protocols failed.
            UnsupportedError: It answered something that is not understood here.

        """
        key = await self._key(shim)
        if (serves := self._direct.get(key)) and (socket := direct.new_socket(self.socket_directory)):
            return await self._serve(shim, bundle, serves, socket)
        known = self._legacy.get(key)
        said: list[str] = []
        for legacy in (False, True) if known is None else (known,):
            result = await self._run(shim, bundle, "start", b"" if legacy else self._params(bundle))
            if result.returncode == 0:
                self._legacy[key] = legacy
                return parse_start(result.stdout)
            said.append(_words(result))
            # A start that fails has killed the shim that it forked, but has not waited for it.
            for pid in await aio.run(aio.DISK, self._orphans, shim):
                self.adopt(pid)
        raise ShimLaunchError(
            f"the shim {shim} did not start: {'; '.join(dict.fromkeys(said))}", subject=bundle.id
        )

    async def _serve(self, shim: Path, bundle: Bundle, version: int, socket: Path) -> Bootstrap:
        command = [str(shim), *self._options(bundle)]
        try:
            pid = await aio.run(_SHIMS, direct.serve, command, bundle.path, self._environment(), socket)
        except OSError as exc:
            raise ShimLaunchError(f"cannot run the shim {shim}: {exc.strerror}", subject=bundle.id) from exc
        self.adopt(pid)
        return Bootstrap(version=version, address=f"unix://{socket}")

    def _options(self, bundle: Bundle) -> tuple[str, ...]:
        return ("-namespace", self.namespace, "-id", bundle.id, "-address", self.grpc_address)

    async def delete(self, shim: Path, bundle: Bundle) -> Exit:
        """Have the executable clean up what a shim left: processes, cgroups, mounts. How the first process ended.

        Raises:
            ShimLaunchError: It could not.

        """
        result = await self._run(shim, bundle, "delete", b"")
        if result.returncode:
            raise ShimLaunchError(f"the shim {shim} could not clean up: {_words(result)}", subject=bundle.id)
        try:
            return exit_of(task_pb2.DeleteResponse.FromString(result.stdout))
        except DecodeError as exc:
            raise ShimLaunchError(f"the shim {shim} answered in an unknown way", subject=bundle.id) from exc

    async def started(self, shim: Path, bundle: Bundle) -> list[int]:
        """Processes of this executable that this daemon, or one before it, started for the bundle."""
        options = ("-id", bundle.id), ("-address", self.grpc_address)
        return await aio.run(aio.DISK, processes_called_with, shim.name, *options)

    def _params(self, bundle: Bundle) -> bytes:
        params = task_pb2.BootstrapParams(
            instance_id=bundle.id,
            namespace=self.namespace,
            log_level=-4 if self.debug else 0,
            containerd_version=_COMPAT_VERSION,
            containerd_ttrpc_address=self.ttrpc_address,
            containerd_grpc_address=self.grpc_address,
            containerd_binary=self.publish_binary,
        )
        if len(os.fsencode(self.socket_directory)) + 1 + 64 <= _SOCKET_PATH:
            params.socket_dir = str(self.socket_directory)
        return params.SerializeToString()

    async def _run(
        self, shim: Path, bundle: Bundle, action: str, stdin: bytes
    ) -> subprocess.CompletedProcess[bytes]:
        command = [
            str(shim),
            *self._options(bundle),
            *("-publish-binary", self.publish_binary),
            *(("-bundle", str(bundle.path)) if action == "delete" else ()),
            *(("-debug",) if self.debug else ()),
            action,
        ]
        try:
            return await aio.run(_SHIMS, self._call, command, bundle.path, self._environment(), stdin)
        except subprocess.TimeoutExpired as exc:
            raise UnavailableError(f"the shim {shim} did not answer {action!r} in {_TIMEOUT} s") from exc
        except OSError as exc:
            raise ShimLaunchError(f"cannot run the shim {shim}: {exc.strerror}", subject=bundle.id) from exc

    def _call(
        self, command: list[str], directory: Path, environment: dict[str, str], stdin: bytes
    ) -> subprocess.CompletedProcess[bytes]:
        pipe = subprocess.PIPE
        with self._lock:  # so that no process of ours is ever taken for an orphan
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                process_group=0,
                umask=_UMASK,
            )
            self._running.add(process.pid)
        try:
            with process:
                try:
                    stdout, stderr = process.communicate(stdin, timeout=_TIMEOUT)
                except BaseException:
                    process.kill()
                    raise
        finally:
            with self._lock:
                self._running.discard(process.pid)
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def _orphans(self, shim: Path) -> list[int]:
        with self._lock:
            return [pid for pid in children_named(shim.name) if pid not in self._running]

    def _environment(self) -> dict[str, str]:
        # Nothing else of the daemon's environment is for containers' parents: no sockets, no proxies, no credentials.
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "TTRPC_ADDRESS": self.ttrpc_address,
            "GRPC_ADDRESS": self.grpc_address,
            "NAMESPACE": self.namespace,
            "MAX_SHIM_VERSION": "2",
            # For runc as well: Go's runtime spends more on waking threads for a second processor than it gains (ADR 0153).
            "GOMAXPROCS": "1",
        }


def _version(shim: Path) -> bytes:
    try:
        return subprocess.run([shim, "-v"], capture_output=True, timeout=_TIMEOUT, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return b""


def _words(result: subprocess.CompletedProcess[bytes]) -> str:
    said = (result.stderr.strip() or result.stdout.strip())[-2000:].decode(errors="replace")
    return said or f"exit status {result.returncode}"


def parse_start(output: bytes) -> Bootstrap:
    """What a shim printed at its start: JSON, a plain address, or a protobuf ``BootstrapResult``.

    Raises:
        UnsupportedError: None of these, or a protocol or Task version that is not spoken here.

    """
    text = output.strip()
    if text.startswith(b"{"):
        try:
            bootstrap = msgspec.json.decode(text, type=Bootstrap)
        except msgspec.MsgspecError as exc:
            raise UnsupportedError(f"the shim answered {text[:200]!r}: {exc}") from exc
    elif b"://" in text[:10] or text.startswith(b"/"):
        bootstrap = Bootstrap(version=2, address=text.decode(errors="replace"))
    else:
        bootstrap = _parse_result(output)
    if bootstrap.protocol != "ttrpc" or not bootstrap.address:
        raise UnsupportedError(f"the shim speaks {bootstrap.protocol!r} at {bootstrap.address!r}, not ttrpc")
    if bootstrap.version not in TASK_SERVICES:
        raise UnsupportedError(f"the shim offers version {bootstrap.version} of the Task API")
    return bootstrap


def _parse_result(output: bytes) -> Bootstrap:
    try:
        result = task_pb2.BootstrapResult.FromString(output)
    except DecodeError as exc:
        raise UnsupportedError(f"the shim answered {output[:200]!r}, which is no address") from exc
    return Bootstrap(version=result.version, address=result.address, protocol=result.protocol or "ttrpc")
