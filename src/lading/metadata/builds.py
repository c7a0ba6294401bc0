"""Rows of builds."""

from collections.abc import Sequence
from typing import Final

from typing_extensions import override

from lading.core import builds
from lading.core.builds import BuildRecord
from lading.core.metadata import Namespace
from lading.errors import NotFoundError
from lading.kit.sqlite import Connection
from lading.metadata.codec import dump, load_build
from lading.metadata.session import Session

_SELECT: Final = "SELECT document FROM build WHERE namespace = ?"


class SqliteBuilds(builds.Store):
    """`builds.Store` of one namespace."""

    def __init__(self, session: Session, namespace: Namespace) -> None:
        self._session = session
        self._namespace = namespace

    def _get(self, connection: Connection, ref: str) -> BuildRecord:
        row = connection.execute(f"{_SELECT} AND ref = ?", (self._namespace, ref)).fetchone()
        if row is None:
            raise NotFoundError(f"no build {ref}", subject=ref)
        return load_build(row[0])

    @override
    async def get(self, ref: str) -> BuildRecord:
        return await self._session.read(lambda connection: self._get(connection, ref), few=True)

    @override
    async def list(self) -> Sequence[BuildRecord]:
        def job(connection: Connection) -> Sequence[BuildRecord]:
            rows = connection.execute(f"{_SELECT} ORDER BY created DESC, ref", (self._namespace,))
            return [load_build(row[0]) for row in rows]

        return await self._session.read(job)

    @override
    async def put(self, record: BuildRecord) -> None:
        row = (self._namespace, record.ref, record.created, dump(record))

        def job(connection: Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO build (namespace, ref, created, document) VALUES (?, ?, ?, ?)", row
            )

        await self._session.write(self._namespace, job)

    @override
    async def delete(self, ref: str) -> BuildRecord:
        def job(connection: Connection) -> BuildRecord:
            record = self._get(connection, ref)
            connection.execute("DELETE FROM build WHERE namespace = ? AND ref = ?", (self._namespace, ref))
            return record

        return await self._session.write(self._namespace, job, frees=True)
