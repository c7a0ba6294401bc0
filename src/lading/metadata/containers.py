"""Rows of containers."""

from typing import Any, Final

from typing_extensions import override

from lading.core import containers
from lading.core.containers import ContainerRecord
from lading.core.metadata import Namespace, Node
from lading.errors import AlreadyExistsError, NotFoundError
from lading.kit.sqlite import Connection
from lading.metadata.codec import dump, load_document
from lading.metadata.session import Session

_SELECT: Final = (
    "SELECT id, name, snapshotter, snapshot_key, image, target, document FROM container WHERE namespace = ?"
)


def _record(row: tuple[Any, ...]) -> ContainerRecord:
    container, name, snapshotter, snapshot_key, image, target, document = row
    return ContainerRecord(
        id=container,
        name=name,
        snapshotter=snapshotter,
        snapshot_key=snapshot_key,
        image=image,
        target=target,
        document=load_document(document),
    )


def needs(record: ContainerRecord) -> list[Node]:
    """What a container keeps."""
    nodes = [Node("content", digest) for digest in (record.image, record.target) if digest]
    if record.snapshot_key:
        nodes.append(Node("snapshot", record.snapshot_key, record.snapshotter))
    return nodes


class SqliteContainers(containers.Store):
    """`containers.Store` of one namespace."""

    def __init__(self, session: Session, namespace: Namespace) -> None:
        self._session = session
        self._namespace = namespace

    def _get(self, connection: Connection, id: str) -> ContainerRecord:
        row = connection.execute(f"{_SELECT} AND id = ?", (self._namespace, id)).fetchone()
        if row is None:
            raise NotFoundError(f"no container {id}", subject=id)
        return _record(row)

    def _check_name(self, connection: Connection, record: ContainerRecord) -> None:
        row = connection.execute(
            "SELECT id FROM container WHERE namespace = ? AND name = ?", (self._namespace, record.name)
        ).fetchone()
        if row is not None and row[0] != record.id:
            raise AlreadyExistsError(
                f"the name {record.name!r} is taken by container {row[0]}",
                hint="remove or rename that container",
                subject=record.name,
            )

    def _touch(self, record: ContainerRecord) -> None:
        self._session.touch(self._namespace, needs(record))

    @override
    async def get(self, id: str) -> ContainerRecord:
        return await self._session.read(lambda connection: self._get(connection, id), few=True)

    @override
    async def list(self) -> "list[ContainerRecord]":
        return await self._session.read(
            lambda connection: [
                _record(row) for row in connection.execute(f"{_SELECT} ORDER BY sequence", (self._namespace,))
            ]
        )

    @override
    async def create(self, record: ContainerRecord, *, durable: bool = True) -> None:
        document = dump(record.document)

        def job(connection: Connection) -> None:
            self._check_name(connection, record)
            connection.execute(
                "INSERT INTO container (namespace, id, name, snapshotter, snapshot_key, image, target, document) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    self._namespace,
                    record.id,
                    record.name,
                    record.snapshotter,
                    record.snapshot_key,
                    record.image,
                    record.target,
                    document,
                ),
            )
            if not connection.changes():
                raise AlreadyExistsError(f"container {record.id} exists", subject=record.id)
            self._touch(record)

        await self._session.write(self._namespace, job, durable=durable)

    @override
    async def update(self, record: ContainerRecord) -> None:
        document = dump(record.document)

        def job(connection: Connection) -> None:
            self._get(connection, record.id)
            self._check_name(connection, record)
            connection.execute(
                "UPDATE container SET name = ?, snapshotter = ?, snapshot_key = ?, image = ?, target = ?, document = ? "
                "WHERE namespace = ? AND id = ?",
                (
                    record.name,
                    record.snapshotter,
                    record.snapshot_key,
                    record.image,
                    record.target,
                    document,
                    self._namespace,
                    record.id,
                ),
            )
            self._touch(record)

        await self._session.write(self._namespace, job)

    @override
    async def delete(self, id: str) -> None:
        def job(connection: Connection) -> None:
            connection.execute("DELETE FROM container WHERE namespace = ? AND id = ?", (self._namespace, id))
            if not connection.changes():
                raise NotFoundError(f"no container {id}", subject=id)

        await self._session.write(self._namespace, job, frees=True)
