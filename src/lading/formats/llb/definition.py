"""A definition: a graph of operations, each as its own bytes (``pb.Definition``)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lading.oci.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """Marshalled operations in topological order, inputs first.

    The last operation is a bare terminal: its single input names the result. An empty definition has no result (``scratch``).
    """

    ops: tuple[bytes, ...] = ()
    """``pb.Op`` messages as they were marshalled; the digest of these bytes is the vertex's name."""
    metadata: Mapping[Digest, bytes] = field(default_factory=dict[Digest, bytes])
    """``pb.OpMetadata`` by vertex: what is shown and how caching is steered, never part of a digest."""
    source: bytes = b""
    """``pb.Source``: where in which Dockerfile each operation stands; empty if unknown."""
