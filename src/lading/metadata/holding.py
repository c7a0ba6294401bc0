"""A resource joins its lease in the transaction that makes it. Functions for the writer thread."""

from lading.core.leases import LeaseID, Resource
from lading.core.metadata import Namespace, Node
from lading.errors import NotFoundError
from lading.kit.sqlite import Connection
from lading.metadata.session import Session

_HOLD = "INSERT INTO lease_resource (namespace, lease, kind, snapshotter, id) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"


def hold(
    session: Session, connection: Connection, namespace: Namespace, lease: LeaseID, resource: Resource
) -> None:
    """Let ``lease`` hold ``resource``. Raises `NotFoundError` for the lease."""
    require(connection, namespace, lease)
    connection.execute(_HOLD, (namespace, lease, resource.kind, resource.snapshotter, resource.id))
    session.touch(namespace, [Node(resource.kind, resource.id, resource.snapshotter)])


def require(connection: Connection, namespace: Namespace, lease: LeaseID) -> None:
    """Raise `NotFoundError` unless the lease exists."""
    row = connection.execute(
        "SELECT 1 FROM lease WHERE namespace = ? AND id = ?", (namespace, lease)
    ).fetchone()
    if row is None:
        raise NotFoundError(f"no lease {lease}", subject=lease)
