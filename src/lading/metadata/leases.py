"""Rows of leases and of what they hold."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from typing_extensions import override

from lading.core import labels as label_rules
from lading.core import leases
from lading.core.leases import Lease, LeaseID, Resource
from lading.core.metadata import Namespace, Node
from lading.errors import AlreadyExistsError, NotFoundError
from lading.kit.sqlite import Connection
from lading.metadata.codec import dump, load_text_map, to_time
from lading.metadata.holding import hold, require
from lading.metadata.session import Session

_SELECT: Final = "SELECT id, created, labels FROM lease WHERE namespace = ?"


def _lease(row: tuple[Any, ...]) -> Lease:
    return Lease(id=LeaseID(row[0]), created_at=to_time(row[1]), labels=load_text_map(row[2]))


class SqliteLeases(leases.Manager):
    """`leases.Manager` of one namespace."""

    def __init__(self, session: Session, namespace: Namespace) -> None:
        self._session = session
        self._namespace = namespace

    @override
    async def create(self, id: LeaseID | None = None, *, labels: Mapping[str, str] | None = None) -> Lease:
        chosen = id or LeaseID(secrets.token_hex(16))
        label_rules.check(labels or {})

        def job(connection: Connection) -> Lease:
            now = self._session.now()
            connection.execute(
                "INSERT INTO lease (namespace, id, created, labels) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (self._namespace, chosen, now, dump(labels or {})),
            )
            if not connection.changes():
                raise AlreadyExistsError(f"lease {chosen} exists", subject=chosen)
            self._session.touch(self._namespace, [Node("lease", chosen)])
            return Lease(id=chosen, created_at=to_time(now), labels=dict(labels or {}))

        return await self._session.write(self._namespace, job, durable=False)

    @override
    async def delete(self, id: LeaseID) -> None:
        def job(connection: Connection) -> None:
            connection.execute("DELETE FROM lease WHERE namespace = ? AND id = ?", (self._namespace, id))
            if not connection.changes():
                raise NotFoundError(f"no lease {id}", subject=id)

        await self._session.write(self._namespace, job, frees=True, durable=False)

    @override
    async def list(self) -> "list[Lease]":
        return await self._session.read(
            lambda connection: [
                _lease(row)
                for row in connection.execute(f"{_SELECT} ORDER BY created, id", (self._namespace,))
            ]
        )

    @override
    async def add(self, id: LeaseID, resource: Resource) -> None:
        await self._session.write(
            self._namespace,
            lambda connection: hold(self._session, connection, self._namespace, id, resource),
            durable=False,
        )

    @override
    async def remove(self, id: LeaseID, resource: Resource) -> None:
        def job(connection: Connection) -> None:
            require(connection, self._namespace, id)
            connection.execute(
                "DELETE FROM lease_resource "
                "WHERE namespace = ? AND lease = ? AND kind = ? AND id = ? AND snapshotter = ?",
                (self._namespace, id, resource.kind, resource.id, resource.snapshotter),
            )

        await self._session.write(self._namespace, job, frees=True, durable=False)

    @override
    async def resources(self, id: LeaseID) -> "list[Resource]":
        def job(connection: Connection) -> "list[Resource]":
            require(connection, self._namespace, id)
            rows = connection.execute(
                "SELECT kind, id, snapshotter FROM lease_resource WHERE namespace = ? AND lease = ? "
                "ORDER BY kind, id, snapshotter",
                (self._namespace, id),
            )
            return [Resource(kind=kind, id=held, snapshotter=snapshotter) for kind, held, snapshotter in rows]

        return await self._session.read(job)
