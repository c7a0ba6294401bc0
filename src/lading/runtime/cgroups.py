"""Where cgroups are mounted, and what is left of a container's whose runtime was killed while it made them.

The OCI runtime removes a container's cgroups by the record that it keeps of the container, and makes that record after them. One
that is killed in between leaves cgroups that no runtime knows of.
"""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

import structlog

MEMBERS: Final = "cgroup.procs"
_PATIENCE: Final = 2.0
"""Seconds that killed processes have to leave."""
_AGAIN: Final = 0.01
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.runtime")


def hierarchies(mountinfo: str) -> dict[str, tuple[str, str]]:
    """Controllers as proc(5) has them in ``cgroup`` (nothing for version 2), to what is mounted of their hierarchy and where."""
    found: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        mounted, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        root, point = mounted.split(" ")[3:5]
        if kind == "cgroup2":
            found.setdefault("", (root, point))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, (root, point))
    return found


def remove_left(bundle: Path) -> None:
    """Remove the cgroups that the spec of a bundle names, with what still runs in them. Idempotent; blocking.

    The runtime has deleted the container, as far as it knew of it. Only cgroups that bear the bundle's name are the container's
    alone; others are let be, as are those that systemd makes.
    """
    path = _cgroup(bundle)
    if path is None:
        return
    points = {point for _, point in hierarchies(_mounts()).values()}
    left = [found for point in points if (found := Path(f"{point}/{path}")).is_dir()]
    deadline = time.monotonic() + _PATIENCE
    while left := [each for each in left if not _removed(each)]:
        if time.monotonic() > deadline:
            _log.warning("cgroups_not_removed", paths=[str(each) for each in left])
            return
        time.sleep(_AGAIN)


def _cgroup(bundle: Path) -> str | None:
    try:
        spec: dict[str, Any] = json.loads((bundle / "config.json").read_bytes())
        path = str(spec["linux"]["cgroupsPath"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the bundle was not finished, or the container has no cgroups
    own = path.startswith("/") and ".." not in path.split("/") and path.rsplit("/", 1)[1] == bundle.name
    return path if own else None


def _removed(cgroup: Path) -> bool:
    """Kill what is in a cgroup and those below it, and remove those that are empty; whether that is all."""
    for directory, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            for pid in Path(directory, MEMBERS).read_text("ascii").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):  # it is in use until they have left
            os.rmdir(directory)
    return not cgroup.exists()


def _mounts() -> str:
    return Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
