"""Where a daemon of a user who is not root keeps its things, and how it knows that it is one.

Directories are those of the XDG base directory specification, as `dockerd-rootless.sh` uses them. RootlessKit's variables are
those of its README ("Environment variables").
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lading.errors import InvalidArgumentError
from lading.kit import linux

STATE: Final = "ROOTLESSKIT_STATE_DIR"
"""Where RootlessKit, around us, has its socket."""
_PARENT: Final = "ROOTLESSKIT_PARENT_EUID"
INSIDE: Final = Path("/run/lading")
"""What goes with the namespaces is in a `/run` that goes with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Of one user: everything that lasts, RootlessKit's own directory, the socket."""

    data_root: Path
    exec_root: Path
    pidfile: Path
    socket: Path
    config_file: Path

    def settings(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """What was chosen, and these places where nothing was. Raises `InvalidArgumentError` for ``rootless`` false."""
        if chosen.get("rootless") is False:
            raise InvalidArgumentError(
                "the daemon has to run as root to run without --rootless",
                hint="run it as root, or leave --rootless=false out",
            )
        defaults = {
            "data_root": self.data_root,
            "exec_root": self.exec_root,
            "pidfile": self.pidfile,
            "hosts": (f"unix://{self.socket}",),
        }
        made = {**defaults, **chosen, "rootless": True}
        return made | {"exec_root": INSIDE} if is_inside() else made


def is_inside() -> bool:
    """Whether RootlessKit has made the namespaces that we are in."""
    return STATE in os.environ and linux.in_user_namespace()


def is_unprivileged() -> bool:
    """Whether we are not root, or only in a namespace of RootlessKit's."""
    return os.geteuid() != 0 or is_inside()


def of_user() -> Places:
    """The places of our user, who may not have a runtime directory; see `daemon.rootless.launch`."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    runtime = runtime_directory()
    return Places(
        data_root=data / "lading",
        exec_root=runtime / "lading",
        pidfile=runtime / "lading.pid",
        socket=runtime / "docker.sock",
        config_file=config / "lading" / "daemon.json",
    )


def runtime_directory() -> Path:
    """``XDG_RUNTIME_DIR``, or what systemd makes of it."""
    user = os.environ.get(_PARENT, "") if is_inside() else ""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user or os.geteuid()}")
