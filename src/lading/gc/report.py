"""What a collection did, or would do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lading.core.metadata import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """One collection. Sizes are bytes, times seconds."""

    nodes: Sequence[Node]
    """Rows that were deleted."""
    freed: int
    failed: Sequence[tuple[Node, str]]
    """Files that could not be deleted, with the reason; the next start sweeps them."""
    mark_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a collection would do."""

    nodes: Mapping[Node, int]
    """What would go, with the bytes of each."""
    kept: int
    """Number of nodes that would stay."""

    @property
    def freed(self) -> int:
        """Bytes that would be freed."""
        return sum(self.nodes.values())
