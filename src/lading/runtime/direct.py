"""Starting the server of containerd's runc shim without its starter.

``containerd-shim-runc-v2 start`` makes a socket, executes its own program again with the socket as descriptor 3, and prints
where that listens: everything is loaded and initialised twice. The second half is the same in all versions from 1.6 on
(containerd's ``pkg/shim``, ``serveListener``, and ``newCommand`` of the shim's manager), so it can be done from here. All
functions block.
"""

import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lading.kit import linux

_OLDEST: Final = (1, 6)
_SECOND: Final = (2, 0)
"""From this version on it serves version 3 of the Task API."""
_UMASK: Final = 0o022
"""containerd's. The runtime makes missing mount points with it, in the container's own tree: others must be able to pass."""
_SOCKET: Final = 3
_SOCKET_PATH: Final = 106
_BACKLOG: Final = 128
_WORST: Final = 1000
"""The highest ``oom_score_adj``. proc(5)."""


def task_version(version: tuple[int, int]) -> int | None:
    """The Task API that a shim of this version serves when it is started in this way; ``None`` for one that is too old."""
    if version < _OLDEST:
        return None
    return 2 if version < _SECOND else 3


def new_socket(directory: Path) -> Path | None:
    """Where a shim may listen; ``None`` if no socket's path below ``directory`` is short enough."""
    path = directory / secrets.token_hex(16)
    return path if len(os.fsencode(path)) <= _SOCKET_PATH else None


def serve(command: list[str], directory: Path, environment: Mapping[str, str], path: Path) -> int:
    """Start a shim's server in ``directory``, listening on the new socket ``path``; its process, a child of ours.

    Whoever connects is heard as soon as the server is up. Raises `OSError`.
    """
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        try:
            path.chmod(0o600)
            listener.listen(_BACKLOG)
            pid = linux.in_directory(str(directory), lambda: _spawn(command, environment, listener.fileno()))
        except BaseException:
            path.unlink()
            raise
    be_killed_before_us(pid)
    return pid


def _spawn(command: list[str], environment: Mapping[str, str], listener: int) -> int:
    """On a thread whose umask is its own."""
    os.umask(_UMASK)
    nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    return os.posix_spawn(
        command[0],
        command,
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, listener, _SOCKET), *nothing],
        setpgroup=0,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


def be_killed_before_us(pid: int) -> None:
    """As the starter of a shim does it: where memory is short, what serves a container goes before the daemon."""
    with contextlib.suppress(OSError):  # it has ended, which is told otherwise
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(score_before_us()), "ascii")


def score_before_us() -> int:
    """The ``oom_score_adj`` of what goes before the daemon. Raises `OSError`."""
    return min(int(Path("/proc/self/oom_score_adj").read_text("ascii")) + 1, _WORST)
