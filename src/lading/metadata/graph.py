"""The collector's view of a namespace, and the deletion of what it found to be garbage."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from lading.core import references
from lading.core.labels import GC_EXPIRE, GC_ROOT
from lading.core.leases import FLAT
from lading.core.metadata import Graph, Namespace, Node
from lading.kit.sqlite import Connection, Cursor
from lading.metadata.codec import encode_list, load_text_map, to_microseconds, to_time

_COLLECTOR: Final = "containerd.io/gc."
"""What every label that matters here begins with: most rows need not be decoded."""


class _Builder:
    """Collects nodes, roots and edges of one namespace."""

    def __init__(self, connection: Connection, namespace: Namespace, now: datetime) -> None:
        self._connection = connection
        self._namespace = namespace
        self._now = now
        self.nodes: set[Node] = set()
        self.roots: dict[Node, str] = {}
        self.edges: defaultdict[Node, list[Node]] = defaultdict(list)
        self.flat: set[Node] = set()

    def _rows(self, sql: str) -> Cursor:
        return self._connection.execute(sql, (self._namespace,))

    def _labelled(self, node: Node, column: str, reason: str) -> Mapping[str, str]:
        """Add a node and what its labels say."""
        self.nodes.add(node)
        if _COLLECTOR not in column:
            return {}
        labels = load_text_map(column)
        if kept := references.forward(labels):
            self.edges[node].extend(kept)
        for keeper in references.backward(labels):
            self.edges[keeper].append(node)
        if GC_ROOT in labels:
            self.roots[node] = f"{reason} labelled {GC_ROOT}"
        return labels

    def blobs(self) -> None:
        for digest, labels in self._rows("SELECT digest, labels FROM blob WHERE namespace = ?"):
            self._labelled(Node("content", digest), labels, "blob")

    def snapshots(self) -> None:
        for snapshotter, key, parent, labels in self._rows(
            "SELECT snapshotter, key, parent, labels FROM snapshot WHERE namespace = ?"
        ):
            node = Node("snapshot", key, snapshotter)
            self._labelled(node, labels, "snapshot")
            if parent is not None:
                self.edges[node].append(Node("snapshot", parent, snapshotter))

    def images(self) -> None:
        for name, digest, column in self._rows("SELECT name, digest, labels FROM image WHERE namespace = ?"):
            node = Node("image", name)
            labels = self._labelled(node, column, "image")
            self.edges[node].append(Node("content", digest))
            if not expired(labels, self._now):
                self.roots[node] = f"image {name}"

    def containers(self) -> None:
        for container, name, snapshotter, key, image, target in self._rows(
            "SELECT id, name, snapshotter, snapshot_key, image, target FROM container WHERE namespace = ?"
        ):
            node = Node("container", container)
            self.nodes.add(node)
            self.roots[node] = f"container {name or container}"
            self.edges[node] += [Node("content", digest) for digest in (image, target) if digest]
            if key:
                self.edges[node].append(Node("snapshot", key, snapshotter))

    def ingests(self) -> None:
        now = to_microseconds(self._now)
        for ref, expected, expires in self._rows(
            "SELECT ref, expected, expires FROM ingest WHERE namespace = ?"
        ):
            node = Node("ingest", ref)
            self.nodes.add(node)
            if expected is not None:
                self.edges[node].append(Node("content", expected))
            if expires > now:
                self.roots[node] = f"unfinished blob {ref} until {to_time(expires):%Y-%m-%dT%H:%M:%SZ}"

    def leases(self) -> None:
        for lease, column in self._rows("SELECT id, labels FROM lease WHERE namespace = ?"):
            node = Node("lease", lease)
            labels = self._labelled(node, column, "lease")
            if FLAT in labels:
                self.flat.add(node)
            if not expired(labels, self._now):
                self.roots[node] = f"lease {lease}"
        for lease, kind, held, snapshotter in self._rows(
            "SELECT lease, kind, id, snapshotter FROM lease_resource WHERE namespace = ?"
        ):
            self.edges[Node("lease", lease)].append(Node(kind, held, snapshotter))


def read(connection: Connection, namespace: Namespace, *, now: datetime, version: int) -> Graph:
    """The whole graph, in the caller's transaction."""
    builder = _Builder(connection, namespace, now)
    builder.blobs()
    builder.snapshots()
    builder.images()
    builder.containers()
    builder.ingests()
    builder.leases()
    return Graph(
        nodes=frozenset(builder.nodes),
        roots=builder.roots,
        edges={node: kept for node, kept in builder.edges.items() if node in builder.nodes},
        flat=frozenset(builder.flat),
        version=version,
    )


def expired(labels: Mapping[str, str], now: datetime) -> bool:
    """Whether label `GC_EXPIRE` names a time that has passed. What is no time never passes."""
    value = labels.get(GC_EXPIRE)
    if value is None:
        return False
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return False
    return moment.tzinfo is not None and moment <= now


def delete(connection: Connection, namespace: Namespace, nodes: Iterable[Node]) -> list[Node]:
    """Delete the rows of ``nodes`` that exist, snapshots children first; a snapshot with children stays."""
    wanted = list(nodes)
    blobs = {node.id: node for node in wanted if node.kind == "content"}
    deleted = [
        blobs[digest] for (digest,) in connection.execute(_ERASE_BLOBS, (namespace, encode_list(blobs)))
    ]
    for node in wanted:
        if (erase := _ERASE.get(node.kind)) is not None:
            connection.execute(erase, (namespace, node.id))
            if connection.changes():
                deleted.append(node)
    snapshots = {node for node in wanted if node.kind == "snapshot"}
    for node in _children_first(connection, namespace, snapshots):
        connection.execute(_ERASE_SNAPSHOT, (namespace, node.scope, node.id))
        if connection.changes():
            deleted.append(node)
    return deleted


_ERASE: Final = {
    "image": "DELETE FROM image WHERE namespace = ? AND name = ?",
    "lease": "DELETE FROM lease WHERE namespace = ? AND id = ?",
    "ingest": "DELETE FROM ingest WHERE namespace = ? AND ref = ?",
}
_ERASE_BLOBS: Final = (
    "DELETE FROM blob WHERE namespace = ? AND digest IN (SELECT value FROM json_each(?)) RETURNING digest"
)
_ERASE_SNAPSHOT: Final = """
DELETE FROM snapshot AS one WHERE namespace = ?1 AND snapshotter = ?2 AND key = ?3
AND NOT EXISTS (SELECT 1 FROM snapshot WHERE namespace = ?1 AND snapshotter = ?2 AND parent = ?3)
"""
_PARENT: Final = "SELECT parent FROM snapshot WHERE namespace = ? AND snapshotter = ? AND key = ?"


def _children_first(connection: Connection, namespace: Namespace, snapshots: set[Node]) -> list[Node]:
    parents: dict[Node, Node | None] = {}
    for node in snapshots:
        row = connection.execute(_PARENT, (namespace, node.scope, node.id)).fetchone()
        parents[node] = None if row is None or row[0] is None else Node("snapshot", row[0], node.scope)
    depth: dict[Node, int] = {}
    for node in snapshots:
        path: list[Node] = []
        step: Node | None = node
        while step is not None and step in snapshots and step not in depth:
            path.append(step)
            step = parents[step]
        below = depth.get(step, -1) if step is not None else -1
        depth.update((member, offset) for offset, member in enumerate(reversed(path), below + 1))
    return sorted(snapshots, key=lambda node: (-depth[node], node))


def condemn(
    connection: Connection, namespace: Namespace, nodes: Sequence[Node], *, touched: set[Node]
) -> list[Node]:
    """Delete those of ``nodes`` that nothing came to need.

    ``touched`` is what new roots and references lead to since the mark; what those nodes lead to now is needed too. A longer way
    would have to pass another new reference, whose end is touched itself.
    """
    needed = _closure(connection, namespace, touched) if touched else set[Node]()
    return delete(connection, namespace, [node for node in nodes if node not in needed])


def _closure(connection: Connection, namespace: Namespace, starts: set[Node]) -> set[Node]:
    """Everything that ``starts`` lead to, themselves included, by the rows as they are now."""
    back = _back_references(connection, namespace)
    seen = set(starts)
    stack = list(seen)
    while stack:
        node = stack.pop()
        for following in (*_leads_to(connection, namespace, node), *back.get(node, ())):
            if following not in seen:
                seen.add(following)
                stack.append(following)
    return seen


def _back_references(connection: Connection, namespace: Namespace) -> Mapping[Node, Sequence[Node]]:
    """Keepers and what they keep by labels on the kept."""
    found: defaultdict[Node, list[Node]] = defaultdict(list)
    for kind, rows in _BACK_REFERENCES.items():
        for name, snapshotter, column in connection.execute(rows, (namespace,)):
            for keeper in references.backward(load_text_map(column)):
                found[keeper].append(Node(kind, name, snapshotter))
    return found


# These rows are few and have an index of their own, for which the planner would not leave the primary key.
_BACK_REFERENCES: Final = {
    kind: f"SELECT {key}, {scope}, labels FROM {table} INDEXED BY {table}_with_back_reference "  # noqa: S608 -- constants
    "WHERE namespace = ? AND instr(labels, 'containerd.io/gc.bref.') > 0"
    for kind, table, key, scope in (
        ("content", "blob", "digest", "''"),
        ("snapshot", "snapshot", "key", "snapshotter"),
        ("image", "image", "name", "''"),
        ("lease", "lease", "id", "''"),
    )
}
_STEPS: Final = {
    "content": "SELECT NULL, '', '', labels FROM blob WHERE namespace = ?1 AND digest = ?2 AND ?3 = ''",
    "snapshot": "SELECT 'snapshot', parent, snapshotter, labels FROM snapshot "
    "WHERE namespace = ?1 AND key = ?2 AND snapshotter = ?3",
    "image": "SELECT 'content', digest, '', labels FROM image WHERE namespace = ?1 AND name = ?2 AND ?3 = ''",
    "container": "SELECT 'content', image, '', '{}' FROM container WHERE namespace = ?1 AND id = ?2 AND ?3 = '' "
    "UNION ALL SELECT 'content', target, '', '{}' FROM container WHERE namespace = ?1 AND id = ?2 "
    "UNION ALL SELECT 'snapshot', snapshot_key, snapshotter, '{}' FROM container WHERE namespace = ?1 AND id = ?2",
    "ingest": "SELECT 'content', expected, '', '{}' FROM ingest WHERE namespace = ?1 AND ref = ?2 AND ?3 = ''",
    "lease": "SELECT NULL, '', '', labels FROM lease WHERE namespace = ?1 AND id = ?2 AND ?3 = '' "
    "UNION ALL SELECT kind, id, snapshotter, '{}' FROM lease_resource WHERE namespace = ?1 AND lease = ?2",
}


def _leads_to(connection: Connection, namespace: Namespace, node: Node) -> list[Node]:
    """What a node's row refers to."""
    found: list[Node] = []
    for kind, name, scope, labels in connection.execute(_STEPS[node.kind], (namespace, node.id, node.scope)):
        if kind and name:
            found.append(Node(kind, name, scope))
        if _COLLECTOR in labels:
            found += references.forward(load_text_map(labels))
    return found
