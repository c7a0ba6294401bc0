"""Rows of a namespace in memory, and the collector's view of them, decided by reading everything."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from lading.core import references
from lading.core.buildcache import BuildRecord as CacheRecord
from lading.core.buildcache import LayerBlob, LinkRow
from lading.core.builds import BuildRecord
from lading.core.containers import ContainerRecord
from lading.core.content import Info, IngestRef
from lading.core.facts import TargetFacts
from lading.core.images import Image
from lading.core.labels import GC_EXPIRE, GC_ROOT
from lading.core.leases import FLAT, Lease, LeaseID, Resource
from lading.core.metadata import TREE, Graph, IngestRow, Marked, Node, SnapshotRow, reachable
from lading.core.networks import Network
from lading.core.snapshots import Kind
from lading.core.volumes import Volume
from lading.errors import NotFoundError
from lading.oci.digest import Digest


@dataclass(slots=True)
class CacheRows:
    """The build cache of one namespace; what is known of snapshots goes by the numbers of their rows."""

    records: dict[str, CacheRecord] = field(default_factory=dict[str, CacheRecord])
    keys: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    links: set[LinkRow] = field(default_factory=set[LinkRow])
    layers: dict[tuple[int, str], LayerBlob] = field(default_factory=dict[tuple[int, str], LayerBlob])
    digests: dict[tuple[int, str], Digest] = field(default_factory=dict[tuple[int, str], Digest])


@dataclass(slots=True)
class Space:
    """All rows of one namespace."""

    blobs: dict[Digest, Info] = field(default_factory=dict[Digest, Info])
    away: set[Digest] = field(default_factory=set[Digest])
    ingests: dict[IngestRef, IngestRow] = field(default_factory=dict[IngestRef, IngestRow])
    images: dict[str, Image] = field(default_factory=dict[str, Image])
    leases: dict[LeaseID, Lease] = field(default_factory=dict[LeaseID, Lease])
    held: dict[LeaseID, set[Resource]] = field(default_factory=dict[LeaseID, set[Resource]])
    snapshots: dict[tuple[str, str], SnapshotRow] = field(default_factory=dict[tuple[str, str], SnapshotRow])
    builds: dict[str, BuildRecord] = field(default_factory=dict[str, BuildRecord])
    cache: CacheRows = field(default_factory=CacheRows)
    removed: set[tuple[str, str, str]] = field(default_factory=set[tuple[str, str, str]])
    containers: dict[str, ContainerRecord] = field(default_factory=dict[str, ContainerRecord])
    facts: dict[Digest, TargetFacts] = field(default_factory=dict[Digest, TargetFacts])
    networks: dict[str, Network] = field(default_factory=dict[str, Network])
    volumes: dict[str, Volume] = field(default_factory=dict[str, Volume])
    version: int = 0
    renewed: dict[Node, int] = field(default_factory=dict[Node, int])

    def hold(self, lease: LeaseID, resource: Resource) -> None:
        if lease not in self.leases:
            raise NotFoundError(f"no lease {lease}", subject=lease)
        self.held[lease].add(resource)

    def blob_sizes(self) -> dict[Digest, int]:
        """Bytes of each blob that are here."""
        return {digest: 0 if digest in self.away else info.size for digest, info in self.blobs.items()}

    def drop_blob(self, digest: Digest) -> Info | None:
        """Delete a blob's row."""
        self.away.discard(digest)
        return self.blobs.pop(digest, None)

    def drop_snapshot(self, scope: str, key: str) -> SnapshotRow | None:
        """Delete a snapshot's row, and remember its tree if that has a name of its own."""
        row = self.snapshots.pop((scope, key), None)
        if row is not None and row.info.kind is Kind.COMMITTED and TREE in row.extra:
            self.removed.add((scope, key, row.extra[TREE]))
        return row


def _expired(labels: Mapping[str, str], now: datetime) -> bool:
    return GC_EXPIRE in labels and datetime.fromisoformat(labels[GC_EXPIRE]) <= now


def _labelled(space: Space) -> Iterator[tuple[Node, Mapping[str, str]]]:
    for digest, info in space.blobs.items():
        yield Node("content", digest), info.labels
    for (scope, key), row in space.snapshots.items():
        yield Node("snapshot", key, scope), row.info.labels
    for name, image in space.images.items():
        yield Node("image", name), image.labels
    for lease in space.leases.values():
        yield Node("lease", lease.id), lease.labels


def graph_of(space: Space, now: datetime) -> Graph:
    """The graph of a namespace, as `Database.graph`."""
    roots: dict[Node, str] = {}
    edges: dict[Node, list[Node]] = {}
    nodes = {node for node, _ in _labelled(space)}
    for node, labels in _labelled(space):
        edges.setdefault(node, []).extend(references.forward(labels))
        for keeper in references.backward(labels):
            edges.setdefault(keeper, []).append(node)
        if GC_ROOT in labels or (node.kind in ("image", "lease") and not _expired(labels, now)):
            roots[node] = f"{node.kind} {node.id}"
    for name, image in space.images.items():
        edges[Node("image", name)].append(Node("content", image.target.digest))
    for (scope, key), row in space.snapshots.items():
        if row.info.parent is not None:
            edges[Node("snapshot", key, scope)].append(Node("snapshot", row.info.parent, scope))
    for lease, held in space.held.items():
        edges[Node("lease", lease)] += [Node(one.kind, one.id, one.snapshotter) for one in held]
    for record in space.containers.values():
        node = Node("container", record.id)
        roots[node] = f"container {record.name}"
        needs = [Node("content", digest) for digest in (record.image, record.target) if digest]
        if record.snapshot_key:
            needs.append(Node("snapshot", record.snapshot_key, record.snapshotter))
        edges.setdefault(node, []).extend(needs)
    for ref, row in space.ingests.items():
        node = Node("ingest", ref)
        edges[node] = [] if row.expected is None else [Node("content", row.expected)]
        if row.expires_at > now:
            roots[node] = f"unfinished blob {ref}"
    nodes |= {Node("container", name) for name in space.containers} | {
        Node("ingest", ref) for ref in space.ingests
    }
    flat = frozenset(Node("lease", one.id) for one in space.leases.values() if FLAT in one.labels)
    edges = {node: kept for node, kept in edges.items() if node in nodes}
    return Graph(nodes=frozenset(nodes), roots=roots, edges=edges, flat=flat, version=space.version)


def mark(graph: Graph) -> frozenset[Node]:
    """Nodes that are garbage, by looking at every one."""
    alive = reachable((root for root in graph.roots if root not in graph.flat), graph.edges)
    flat = [root for root in graph.roots if root in graph.flat]
    held = {node for root in flat for node in graph.edges.get(root, ())}
    alive.update(held, flat, _parents(held, graph.edges))
    return graph.nodes.difference(alive)


def _parents(held: set[Node], edges: Mapping[Node, Sequence[Node]]) -> set[Node]:
    """What snapshots of a flat lease stand on: without it they could not be used."""
    seen = {node for node in held if node.kind == "snapshot"}
    stack = list(seen)
    while stack:
        snapshot = stack.pop()
        for node in edges.get(snapshot, ()):
            if node.kind == "snapshot" and node.scope == snapshot.scope and node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


def marked(space: Space, now: datetime, without: Collection[str]) -> Marked:
    """As `Database.mark`."""
    graph = graph_of(space, now)
    dropped = {Node("image", name) for name in without}
    graph = replace(graph, roots={root: why for root, why in graph.roots.items() if root not in dropped})
    garbage = mark(graph)
    sizes = {Node("content", digest): size for digest, size in space.blob_sizes().items()}
    sizes |= {Node("snapshot", key, scope): row.usage.size for (scope, key), row in space.snapshots.items()}
    snapshots = {node for node in garbage if node.kind == "snapshot"}
    return Marked(
        garbage={node: sizes.get(node, 0) for node in garbage},
        edges={
            node: [other for other in graph.edges.get(node, ()) if other in snapshots] for node in snapshots
        },
        kept=len(graph.nodes) - len(garbage),
        version=graph.version,
    )


def children_first(space: Space, nodes: Sequence[Node]) -> list[Node]:
    """Nodes in an order in which they may be deleted."""

    def depth(node: Node) -> int:
        row = space.snapshots.get((node.scope, node.id))
        count = 0
        while row is not None and row.info.parent is not None:
            row = space.snapshots.get((node.scope, row.info.parent))
            count += 1
        return count

    return sorted(nodes, key=lambda node: (node.kind == "snapshot", -depth(node), node))


def erase(space: Space, node: Node) -> bool:
    """Delete a row; whether it was there and could go."""
    if node.kind == "snapshot":
        parents = {(scope, row.info.parent) for (scope, _), row in space.snapshots.items()}
        if (node.scope, node.id) in parents:
            return False
        return space.drop_snapshot(node.scope, node.id) is not None
    if node.kind == "lease":
        space.held.pop(LeaseID(node.id), None)
        return space.leases.pop(LeaseID(node.id), None) is not None
    if node.kind == "ingest":
        return space.ingests.pop(IngestRef(node.id), None) is not None
    if node.kind == "image":
        return space.images.pop(node.id, None) is not None
    return node.kind == "content" and space.drop_blob(Digest(node.id)) is not None
