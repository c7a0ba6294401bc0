"""A head start for processes on their way into a container's cgroups.

Whoever is the first to move a process between cgroups after a pause waits for a grace period of RCU: the kernel takes its
``cgroup_threadgroup_rwsem`` for writing (kernel/cgroup/cgroup.c, kernel/rcu/sync.c), and goes on without a wait for those who
come soon after. That is some 10 ms, a third of what the OCI runtime takes for an exec. The daemon pays it while the runtime's
program still starts, by moving itself to where it is, which changes nothing.
"""

import os
from pathlib import Path
from typing import Final

from lading.kit import aio
from lading.runtime.cgroups import MEMBERS, hierarchies

_LANE: Final = aio.Lane("moves", 1)


class HeadStart:
    """Gives one; where it cannot, the runtime waits by itself as it always does."""

    def __init__(self) -> None:
        self._members: Path | None = None
        self._looked = False
        self._going = False

    @property
    def going(self) -> bool:
        """Whether one is under way, which serves whoever asks now."""
        return self._going

    async def give(self) -> None:
        """Return when the next move does not wait. One that is under way serves all. Never raises."""
        if self._going:
            return
        self._going = True
        try:
            await aio.run(_LANE, self._move)
        finally:
            self._going = False

    def _move(self) -> None:
        if not self._looked:
            self._looked, self._members = True, own_members(Path("/proc/self"))
        if self._members is None:
            return
        try:
            with open(self._members, "wb", buffering=0) as members:
                members.write(b"0")
        except OSError:  # not ours to write to, or not mounted any more
            self._members = None


def own_members(process: Path) -> Path | None:
    """The file by which processes are moved to a cgroup where this one is already; None if no hierarchy is in sight.

    ``process`` is a directory of proc(5). Blocking.
    """
    mounts = hierarchies((process / "mountinfo").read_text("utf-8", "surrogateescape"))
    for line in (process / "cgroup").read_text("utf-8", "surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        root, point = mounts.get(controllers, ("", ""))
        outside = "/../" in f"{path}/{root}/"  # of this cgroup namespace
        if point and not outside and (path == root or path.startswith(root.rstrip("/") + "/")):
            found = Path(point, os.path.relpath(path, root), MEMBERS)
            if os.access(found, os.W_OK):
                return found
    return None
