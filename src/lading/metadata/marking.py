"""The mark, in SQL: what no root leads to, found without an object of ours for what is kept.

A daemon with 100,000 blobs must go on answering while it marks. As Python objects the graph would cost the interpreter lock for
seconds, in pieces of up to a quarter of a second; as temporary tables of one connection it costs none of it: SQLite works outside
the lock, and only garbage becomes objects. What a label keeps is still said in one place (`lading.core.references`): it is asked
once for each distinct key.
"""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import Final

from lading.core import references
from lading.core.labels import GC_EXPIRE, GC_ROOT
from lading.core.leases import FLAT
from lading.core.metadata import Marked, Namespace, Node
from lading.kit.sqlite import Connection
from lading.metadata.codec import encode_list, to_microseconds
from lading.metadata.graph import expired

_TABLES: Final = """
CREATE TEMP TABLE mark_node (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, scope TEXT NOT NULL, size INTEGER NOT NULL
);
CREATE TEMP TABLE mark_label (node INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL);
CREATE TEMP TABLE mark_key (key TEXT PRIMARY KEY, back INTEGER NOT NULL, kind TEXT NOT NULL, scope TEXT NOT NULL);
CREATE TEMP TABLE mark_edge (source INTEGER NOT NULL, target INTEGER NOT NULL, PRIMARY KEY (source, target)) WITHOUT ROWID;
CREATE TEMP TABLE mark_root (id INTEGER PRIMARY KEY, flat INTEGER NOT NULL);
CREATE TEMP TABLE mark_alive (id INTEGER PRIMARY KEY);
"""
_DROP: Final = "".join(
    f"DROP TABLE IF EXISTS temp.mark_{name};" for name in ("node", "label", "key", "edge", "root", "alive")
)
_NODES: Final = """
INSERT INTO mark_node (kind, key, scope, size)
    SELECT 'content', digest, '', iif(away, 0, size) FROM blob WHERE namespace = :namespace
    UNION ALL SELECT 'snapshot', key, snapshotter, size FROM snapshot WHERE namespace = :namespace
    UNION ALL SELECT 'image', name, '', 0 FROM image WHERE namespace = :namespace
    UNION ALL SELECT 'container', id, '', 0 FROM container WHERE namespace = :namespace
    UNION ALL SELECT 'ingest', ref, '', 0 FROM ingest WHERE namespace = :namespace
    UNION ALL SELECT 'lease', id, '', 0 FROM lease WHERE namespace = :namespace;
CREATE UNIQUE INDEX temp.mark_node_by_key ON mark_node (kind, key, scope);
"""
# An inner json_each would be planned first; CROSS JOIN keeps the order as written.
_LABELS: Final = "".join(
    f"INSERT INTO mark_label SELECT node.id, label.key, label.value FROM {table} AS row "  # noqa: S608 -- constants
    f"CROSS JOIN mark_node AS node ON node.kind = '{kind}' AND node.key = row.{key} AND node.scope = {scope} "
    "CROSS JOIN json_each(row.labels) AS label "
    "WHERE row.namespace = :namespace AND instr(row.labels, 'containerd.io/gc.') AND label.key GLOB 'containerd.io/gc.*';"
    for table, kind, key, scope in (
        ("blob", "content", "digest", "''"),
        ("snapshot", "snapshot", "key", "row.snapshotter"),
        ("image", "image", "name", "''"),
        ("lease", "lease", "id", "''"),
    )
)
_EDGES: Final = """
INSERT OR IGNORE INTO mark_edge
    SELECT iif(mark_key.back, other.id, label.node), iif(mark_key.back, label.node, other.id)
    FROM mark_label AS label CROSS JOIN mark_key USING (key) CROSS JOIN mark_node AS other
    ON other.kind = mark_key.kind AND other.key = label.value AND other.scope = mark_key.scope;
"""


def _reference(table: str, own: str, target: str) -> str:
    """An edge from each row's node to the node that it names; ``own`` and ``target`` are kind, key and scope in SQL."""
    kind, key, scope = own.split("|")
    other_kind, other_key, other_scope = target.split("|")
    return (
        "INSERT OR IGNORE INTO mark_edge SELECT node.id, other.id "  # noqa: S608 -- constants
        f"FROM {table} AS row CROSS JOIN mark_node AS node ON node.kind = {kind} AND node.key = {key} AND node.scope = {scope} "
        f"CROSS JOIN mark_node AS other ON other.kind = {other_kind} AND other.key = {other_key} AND other.scope = {other_scope} "
        "WHERE row.namespace = :namespace;"
    )


_REFERENCES: Final = "".join(
    _reference(*each)
    for each in (
        ("snapshot", "'snapshot'|row.key|row.snapshotter", "'snapshot'|row.parent|row.snapshotter"),
        ("image", "'image'|row.name|''", "'content'|row.digest|''"),
        ("container", "'container'|row.id|''", "'content'|row.image|''"),
        ("container", "'container'|row.id|''", "'content'|row.target|''"),
        ("container", "'container'|row.id|''", "'snapshot'|row.snapshot_key|row.snapshotter"),
        ("ingest", "'ingest'|row.ref|''", "'content'|row.expected|''"),
        ("lease_resource", "'lease'|row.lease|''", "row.kind|row.id|row.snapshotter"),
    )
)
_ROOTS: Final = """
INSERT OR IGNORE INTO mark_root SELECT id, 0 FROM mark_node WHERE kind IN ('container', 'image');
INSERT OR IGNORE INTO mark_root SELECT id, id IN (SELECT node FROM mark_label WHERE key = :flat)
    FROM mark_node WHERE kind = 'lease';
INSERT OR IGNORE INTO mark_root SELECT node.id, 0 FROM ingest CROSS JOIN mark_node AS node
    ON node.kind = 'ingest' AND node.key = ref WHERE namespace = :namespace AND expires > :now;
"""
_LABELLED_ROOTS: Final = """
INSERT OR IGNORE INTO mark_root SELECT DISTINCT node, node IN (SELECT node FROM mark_label WHERE key = :flat)
    FROM mark_label WHERE key = :root;
"""
_WITHOUT: Final = """
DELETE FROM mark_root WHERE id IN (
    SELECT id FROM mark_node WHERE kind = 'image' AND scope = '' AND key IN (SELECT value FROM json_each(?))
)
"""
_ALIVE: Final = """
WITH RECURSIVE alive (id) AS (
    SELECT id FROM mark_root WHERE NOT flat
    UNION SELECT target FROM alive CROSS JOIN mark_edge ON source = alive.id
) INSERT INTO mark_alive SELECT id FROM alive;
WITH RECURSIVE held (id) AS ( -- what a flat lease holds, and of that what snapshots stand on
    SELECT target FROM mark_root CROSS JOIN mark_edge ON source = mark_root.id WHERE flat
    UNION SELECT mark_edge.target FROM held CROSS JOIN mark_edge ON source = held.id
    CROSS JOIN mark_node AS upper ON upper.id = held.id AND upper.kind = 'snapshot'
    CROSS JOIN mark_node AS lower ON lower.id = mark_edge.target AND lower.kind = 'snapshot' AND lower.scope = upper.scope
) INSERT OR IGNORE INTO mark_alive SELECT id FROM held UNION SELECT id FROM mark_root WHERE flat;
"""
_GARBAGE: Final = "SELECT kind, key, scope, size FROM mark_node WHERE id NOT IN (SELECT id FROM mark_alive)"
_GARBAGE_EDGES: Final = """
SELECT upper.key, upper.scope, lower.key, lower.scope FROM mark_node AS upper
CROSS JOIN mark_edge ON source = upper.id CROSS JOIN mark_node AS lower ON lower.id = target
WHERE upper.kind = 'snapshot' AND lower.kind = 'snapshot'
AND upper.id NOT IN (SELECT id FROM mark_alive) AND lower.id NOT IN (SELECT id FROM mark_alive)
"""


def mark(
    connection: Connection,
    namespace: Namespace,
    *,
    now: datetime,
    version: int,
    without: Collection[str] = (),
) -> Marked:
    """What no root leads to, in the caller's transaction; the images ``without`` are no roots."""
    connection.execute(_DROP + _TABLES)
    try:
        _fill(connection, namespace, now, without)
        garbage = {Node(kind, key, scope): size for kind, key, scope, size in connection.execute(_GARBAGE)}
        edges: defaultdict[Node, list[Node]] = defaultdict(list)
        for key, scope, other, other_scope in connection.execute(_GARBAGE_EDGES):
            edges[Node("snapshot", key, scope)].append(Node("snapshot", other, other_scope))
        kept = connection.execute("SELECT count(*) FROM mark_alive").fetchall()[0][0]
    finally:
        connection.execute(_DROP)
    return Marked(garbage=garbage, edges=edges, kept=kept, version=version)


def _fill(connection: Connection, namespace: Namespace, now: datetime, without: Collection[str]) -> None:
    """Nodes, then what labels say, then edges and roots, then what is alive."""
    given = {"namespace": namespace, "now": to_microseconds(now), "flat": FLAT, "root": GC_ROOT}
    connection.execute(_NODES + _LABELS, given)
    for (key,) in connection.execute("SELECT DISTINCT key FROM mark_label").fetchall():
        if (meant := references.meaning(key)) is not None:
            connection.execute("INSERT INTO mark_key VALUES (?, ?, ?, ?)", (key, *meant))
    connection.execute(_EDGES + _REFERENCES + _ROOTS, given)
    labelled = connection.execute("SELECT node, value FROM mark_label WHERE key = ?", (GC_EXPIRE,))
    for node, value in labelled.fetchall():
        if expired({GC_EXPIRE: value}, now):
            connection.execute("DELETE FROM mark_root WHERE id = ?", (node,))
    connection.execute(_LABELLED_ROOTS, given)
    connection.execute(_WITHOUT, (encode_list(without),))
    connection.execute(_ALIVE)
