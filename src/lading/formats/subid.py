"""``/etc/subuid`` and ``/etc/subgid``: which IDs of the machine a user may map. subuid(5), of shadow-utils."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lading.errors import InvalidArgumentError

SMALLEST: Final = 65_536
"""IDs that a container needs: those of 16 bits, with nobody (65534) among them."""
_LAST: Final = (1 << 32) - 2
"""4294967295 is no ID: it means that none is given."""
_RANGES: Final = 340
"""The kernel takes as many (user_namespaces(7))."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line: the owner, by name or number; the first ID; how many."""

    owner: str
    start: int
    count: int


def parse(text: str, what: str) -> list[Entry]:
    """The lines. ``what`` names the file. Raises `InvalidArgumentError` for one that is malformed."""
    found: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        parts = stripped.split(":")
        if len(parts) != 3 or not parts[0] or not (_is_number(parts[1]) and _is_number(parts[2])):
            raise InvalidArgumentError(f"{what}, line {number}: {stripped[:80]!r} is not user:first:count")
        found.append(Entry(parts[0], int(parts[1]), int(parts[2])))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def ranges(entries: Collection[Entry], owners: Collection[str], what: str) -> list[tuple[int, int]]:
    """What an owner, known by these names, may map: first ID and number of IDs of each range, in the file's order.

    Raises:
        InvalidArgumentError: Nothing, or fewer than `SMALLEST`; ranges overlap, leave 32 bits, or have root of the machine in
            them.

    """
    name = next(iter(owners))
    found = [(each.start, each.count) for each in entries if each.owner in owners]
    if not found:
        raise InvalidArgumentError(
            f"{what}: no subordinate IDs of {name!r}", hint=f"add a line: {name}:100000:65536"
        )
    if len(found) > _RANGES:
        raise InvalidArgumentError(f"{what}: {len(found)} ranges of {name!r}, the kernel takes {_RANGES}")
    for start, count in found:
        if not start or not count or start + count - 1 > _LAST:
            raise InvalidArgumentError(f"{what}: the range {name}:{start}:{count} cannot be mapped")
    ordered = sorted(found)
    for (start, count), (following, _) in pairwise(ordered):
        if start + count > following:
            raise InvalidArgumentError(f"{what}: ranges of {name!r} overlap at {following}")
    if (total := sum(count for _, count in found)) < SMALLEST:
        raise InvalidArgumentError(
            f"{what}: {total} subordinate IDs of {name!r} are too few", hint=f"give {SMALLEST} or more"
        )
    return found


def free(entries: Collection[Entry], taken: Collection[Entry] = (), *, first: int = 100_000) -> int:
    """The lowest start of `SMALLEST` IDs, from ``first`` on, that meet none of these entries."""
    start = first
    for each in sorted([*entries, *taken], key=lambda entry: entry.start):
        if each.start < start + SMALLEST and start < each.start + each.count:
            start = each.start + each.count
    return start
