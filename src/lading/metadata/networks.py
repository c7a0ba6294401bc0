"""Rows of networks and of volumes: a name, and the record as a document."""

from typing import Final, TypeVar

import msgspec
from typing_extensions import override

from lading.core import networks, volumes
from lading.core.metadata import Namespace
from lading.core.networks import Network, NetworkID
from lading.core.volumes import Volume
from lading.errors import AlreadyExistsError, DataLossError, NotFoundError
from lading.kit.sqlite import Connection
from lading.metadata.session import Session

T = TypeVar("T")
_NETWORKS: Final = "SELECT document FROM network WHERE namespace = ? ORDER BY sequence"
_VOLUMES: Final = "SELECT document FROM volume WHERE namespace = ? ORDER BY name"


def _dump(record: object) -> str:
    return msgspec.json.encode(record).decode()


def _load(document: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(document, type=kind)
    except msgspec.MsgspecError as exc:
        raise DataLossError(f"the row of a {kind.__name__.lower()} is damaged: {exc}") from exc


async def _list(session: Session, namespace: Namespace, select: str, kind: type[T]) -> list[T]:
    def job(connection: Connection) -> list[T]:
        return [_load(str(row[0]), kind) for row in connection.execute(select, (namespace,))]

    return await session.read(job)


async def _delete(session: Session, namespace: Namespace, statement: str, key: str, what: str) -> None:
    def job(connection: Connection) -> None:
        connection.execute(statement, (namespace, key))
        if not connection.changes():
            raise NotFoundError(f"no {what} {key}", subject=key)

    await session.write(namespace, job, frees=True)


class SqliteNetworks(networks.Store):
    """`networks.Store` of one namespace."""

    def __init__(self, session: Session, namespace: Namespace) -> None:
        self._session = session
        self._namespace = namespace

    @override
    async def list(self) -> "list[Network]":
        return await _list(self._session, self._namespace, _NETWORKS, Network)

    @override
    async def create(self, network: Network) -> None:
        row = (self._namespace, network.id, network.name, _dump(network))

        def job(connection: Connection) -> None:
            connection.execute(
                "INSERT INTO network (namespace, id, name, document) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                row,
            )
            if not connection.changes():
                raise AlreadyExistsError(f"network {network.name} exists", subject=network.name)

        await self._session.write(self._namespace, job)

    @override
    async def delete(self, id: NetworkID) -> None:
        statement = "DELETE FROM network WHERE namespace = ? AND id = ?"
        await _delete(self._session, self._namespace, statement, id, "network")


class SqliteVolumes(volumes.Store):
    """`volumes.Store` of one namespace."""

    def __init__(self, session: Session, namespace: Namespace) -> None:
        self._session = session
        self._namespace = namespace

    @override
    async def list(self) -> "list[Volume]":
        return await _list(self._session, self._namespace, _VOLUMES, Volume)

    @override
    async def create(self, volume: Volume) -> None:
        row = (self._namespace, volume.name, _dump(volume))

        def job(connection: Connection) -> None:
            connection.execute(
                "INSERT INTO volume (namespace, name, document) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row
            )
            if not connection.changes():
                raise AlreadyExistsError(f"volume {volume.name} exists", subject=volume.name)

        await self._session.write(self._namespace, job)

    @override
    async def delete(self, name: str) -> None:
        statement = "DELETE FROM volume WHERE namespace = ? AND name = ?"
        await _delete(self._session, self._namespace, statement, name, "volume")
