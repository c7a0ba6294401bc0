"""What this machine and its kernel have, of what limits of containers may name."""

import os
import re
from pathlib import Path
from typing import Final

from lading.errors import InvalidArgumentError

_DEVICES: Final = Path("/sys/devices/system")
HIERARCHIES: Final = Path("/sys/fs/cgroup")
_RANGE: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def check_sets(cpus: str, nodes: str) -> None:
    """Judge lists of CPUs and memory nodes. Raises `InvalidArgumentError` if this machine has not all of them."""
    for what, asked, kind in (("CPUs", cpus, "cpu"), ("memory nodes", nodes, "node")):
        if not asked:
            continue
        try:
            online = (_DEVICES / kind / "online").read_text("ascii").strip()
        except FileNotFoundError:  # a kernel without NUMA
            online = "0"
        if not numbers(asked) <= numbers(online):
            raise InvalidArgumentError(
                f"Requested {what} are not available - requested {asked}, available: {online}"
            )


def numbers(text: str) -> frozenset[int]:
    """The members of a list such as ``0-3,8`` (cpuset(7), "List format"). Raises `InvalidArgumentError`."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise InvalidArgumentError(f"Invalid value {text[:80]} for a set of CPUs or memory nodes")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


def has_weights(hierarchies: Path) -> bool:
    """Whether groups have weights for block devices. Where there is no group yet to look at, they may have."""
    for hierarchy, files in (
        (hierarchies / "blkio", ("blkio.bfq.weight", "blkio.weight")),
        (hierarchies, ("io.bfq.weight", "io.weight")),
    ):
        groups = [each for each in _directories(hierarchy) if (each / "cgroup.procs").exists()]
        if groups:
            return any((group / file).exists() for group in groups for file in files)
    return True


def _directories(path: Path) -> list[Path]:
    try:
        return [Path(each) for each in os.scandir(path) if each.is_dir()]
    except FileNotFoundError:
        return []
