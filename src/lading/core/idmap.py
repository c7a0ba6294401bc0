"""Maps between the user and group IDs inside a container and those of the machine. user_namespaces(7).

A map is of ranges, contiguous inside. An ID without a counterpart becomes the overflow ID, as the kernel shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lading.errors import InvalidArgumentError

OVERFLOW: Final = 65534
"""``/proc/sys/kernel/overflowuid`` by default."""
_ALL: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class IdRange:
    """``size`` IDs from ``inside`` on are those from ``outside`` on; a line of ``/proc/<pid>/uid_map``."""

    inside: int
    outside: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """The user and the group IDs of a user namespace whose parent is the machine's own."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    @property
    def root(self) -> tuple[int, int]:
        """User and group of the machine that are root inside."""
        return self.outside(0, 0)

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        whole = (IdRange(0, 0, _ALL - 1),)
        return self.uids == whole and self.gids == whole

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The machine's IDs. Raises `InvalidArgumentError` for one that the map has not."""
        found = _find(self.uids, uid, to_outside=True), _find(self.gids, gid, to_outside=True)
        if found[0] is None or found[1] is None:
            raise InvalidArgumentError(
                f"the owner {uid}:{gid} has no counterpart in the user namespace",
                hint="give the user of userns-remap more IDs in /etc/subuid and /etc/subgid",
            )
        return found[0], found[1]

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The IDs as they are seen inside; `OVERFLOW` for one that the map has not."""
        found = _find(self.uids, uid, to_outside=False), _find(self.gids, gid, to_outside=False)
        return (
            OVERFLOW if found[0] is None else found[0],
            OVERFLOW if found[1] is None else found[1],
        )


IDENTITY: Final = IdMap(uids=(IdRange(0, 0, _ALL - 1),), gids=(IdRange(0, 0, _ALL - 1),))


def _find(ranges: Sequence[IdRange], id: int, *, to_outside: bool) -> int | None:
    for each in ranges:
        begin, end = (each.inside, each.outside) if to_outside else (each.outside, each.inside)
        if begin <= id < begin + each.size:
            return id - begin + end
    return None


def stacked(ranges: Sequence[tuple[int, int]]) -> tuple[IdRange, ...]:
    """A map of ranges of the machine (first ID, number of IDs), one after the other from 0 on."""
    made: list[IdRange] = []
    place = 0
    for start, size in ranges:
        made.append(IdRange(place, start, size))
        place += size
    return tuple(made)


def text(ranges: Sequence[IdRange]) -> str:
    """As ``/proc/<pid>/uid_map`` takes it."""
    return "".join(f"{each.inside} {each.outside} {each.size}\n" for each in ranges)


def parse(lines: str) -> tuple[IdRange, ...]:
    """What ``/proc/<pid>/uid_map`` says."""
    return tuple(IdRange(*map(int, line.split())) for line in lines.splitlines())


def document(ranges: Sequence[IdRange]) -> list[dict[str, int]]:
    """As the OCI runtime-spec has it (``linux.uidMappings``)."""
    return [{"containerID": each.inside, "hostID": each.outside, "size": each.size} for each in ranges]
