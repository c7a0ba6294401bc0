"""Rows of blobs and ingests."""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from typing_extensions import override

from lading.core import labels as label_rules
from lading.core import metadata, references
from lading.core.content import NO_LABELS_OF_MANY, Info, IngestRef, Labels
from lading.core.leases import LeaseID, Resource
from lading.core.metadata import IngestRow, Namespace, Node
from lading.errors import NotFoundError
from lading.kit.sqlite import FEW, Connection
from lading.metadata.codec import dump, encode_list, load_text_map, to_microseconds, to_time
from lading.metadata.holding import hold
from lading.metadata.session import Session
from lading.oci.digest import Digest

_COLUMNS: Final = "digest, size, created, updated, labels"
_SELECT: Final = f"SELECT {_COLUMNS} FROM blob WHERE namespace = ?"  # noqa: S608 -- constants
_GET: Final = f"{_SELECT} AND digest = ?"


def _info(row: tuple[Any, ...]) -> Info:
    digest, size, created, updated, labels = row
    return Info(
        digest=Digest(digest),
        size=size,
        created_at=to_time(created),
        updated_at=to_time(updated),
        labels=load_text_map(labels),
    )


class SqliteBlobs(metadata.Blobs):
    """`metadata.Blobs` of one namespace."""

    def __init__(self, session: Session, namespace: Namespace) -> None:
        self._session = session
        self._namespace = namespace

    def _find(self, connection: Connection, digest: Digest) -> Info | None:
        row = connection.execute(_GET, (self._namespace, digest)).fetchone()
        return None if row is None else _info(row)

    def _get(self, connection: Connection, digest: Digest) -> Info:
        if (info := self._find(connection, digest)) is None:
            raise NotFoundError(f"no blob {digest}", subject=digest)
        return info

    @override
    async def get(self, digest: Digest) -> Info:
        return await self._session.read(lambda connection: self._get(connection, digest), few=True)

    @override
    async def list(self) -> Sequence[Info]:
        return await self._session.read(
            lambda connection: [
                _info(row) for row in connection.execute(f"{_SELECT} ORDER BY digest", (self._namespace,))
            ]
        )

    @override
    async def infos(self, digests: Collection[Digest]) -> Mapping[Digest, Info]:
        wanted = encode_list(digests)

        def job(connection: Connection) -> Mapping[Digest, Info]:
            rows = connection.execute(
                f"{_SELECT} AND digest IN (SELECT value FROM json_each(?))",  # noqa: S608 -- constants
                (self._namespace, wanted),
            )
            return {info.digest: info for info in map(_info, rows)}

        return await self._session.read(job, few=len(digests) <= FEW)

    @override
    async def away(self) -> AbstractSet[Digest]:
        return await self._session.read(
            lambda connection: {
                Digest(digest)
                for (digest,) in connection.execute(
                    "SELECT digest FROM blob WHERE namespace = ? AND away", (self._namespace,)
                )
            }
        )

    @override
    async def set_away(self, away: Mapping[Digest, bool]) -> None:
        rows = [(int(gone), self._namespace, digest) for digest, gone in away.items()]
        await self._session.write(
            None,
            lambda connection: connection.executemany(
                "UPDATE blob SET away = ? WHERE namespace = ? AND digest = ?", rows
            ),
            durable=False,
        )

    @override
    async def sizes(self, digests: Collection[Digest]) -> Mapping[str, int]:
        wanted = encode_list(digests)
        return await self._session.read(
            lambda connection: dict(
                connection.execute(
                    "SELECT digest, size FROM blob WHERE namespace = ? AND digest IN (SELECT value FROM json_each(?))",
                    (self._namespace, wanted),
                )
            ),
            few=len(digests) <= FEW,
        )

    @override
    async def add(
        self,
        digest: Digest,
        size: int,
        *,
        labels: Labels,
        ref: IngestRef | None = None,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> Info:
        label_rules.check(labels)

        def job(connection: Connection) -> Info:
            self._add(connection, digest, size, labels, lease)
            if ref is not None:
                self._close_ingest(connection, ref)
            return self._get(connection, digest)

        return await self._session.write(self._namespace, job, durable=durable)

    def _add(
        self, connection: Connection, digest: Digest, size: int, labels: Labels, lease: LeaseID | None
    ) -> None:
        now = self._session.now()
        old = self._find(connection, digest)
        connection.execute(
            "INSERT INTO blob (namespace, digest, size, created, updated, labels) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET labels = excluded.labels, updated = excluded.updated, away = 0",
            (self._namespace, digest, size, now, now, dump({**(old.labels if old else {}), **labels})),
        )
        self._hold(connection, digest, lease)
        self._touch(digest, labels)

    def _hold(self, connection: Connection, digest: Digest, lease: LeaseID | None) -> None:
        if lease is not None:
            hold(self._session, connection, self._namespace, lease, Resource(kind="content", id=digest))

    @override
    async def add_many(
        self,
        sizes: Mapping[Digest, int],
        *,
        labels: Mapping[Digest, Labels] = NO_LABELS_OF_MANY,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> None:
        for each in labels.values():
            label_rules.check(each)

        def job(connection: Connection) -> None:
            for digest, size in sizes.items():
                self._add(connection, digest, size, labels.get(digest, {}), lease)

        await self._session.write(self._namespace, job, durable=durable)

    @override
    async def label(self, labels: Mapping[Digest, Labels], *, lease: LeaseID | None = None) -> None:
        for each in labels.values():
            label_rules.check(each)

        def job(connection: Connection) -> None:
            for digest, added in labels.items():
                if (old := self._find(connection, digest)) is not None:
                    self._hold(connection, digest, lease)
                    self._relabel(connection, digest, {**old.labels, **added})

        await self._session.write(self._namespace, job)

    def _relabel(self, connection: Connection, digest: Digest, labels: Labels) -> None:
        connection.execute(
            "UPDATE blob SET labels = ?, updated = ? WHERE namespace = ? AND digest = ?",
            (dump(labels), self._session.now(), self._namespace, digest),
        )
        self._touch(digest, labels)

    def _touch(self, digest: Digest, labels: Mapping[str, str]) -> None:
        self._session.touch(self._namespace, [Node("content", digest), *references.forward(labels)])

    @override
    async def hold(self, digest: Digest, lease: LeaseID) -> bool:
        def job(connection: Connection) -> bool:
            if self._find(connection, digest) is None:
                return False
            self._hold(connection, digest, lease)
            return True

        return await self._session.write(self._namespace, job, durable=False)

    @override
    async def update(self, digest: Digest, labels: Mapping[str, str | None], *, durable: bool = True) -> Info:
        label_rules.check(labels)

        def job(connection: Connection) -> Info:
            self._relabel(connection, digest, label_rules.merge(self._get(connection, digest).labels, labels))
            return self._get(connection, digest)

        return await self._session.write(self._namespace, job, durable=durable)

    @override
    async def delete(self, digest: Digest) -> bool:
        def job(connection: Connection) -> bool:
            self._get(connection, digest)
            connection.execute(
                "DELETE FROM blob WHERE namespace = ? AND digest = ?", (self._namespace, digest)
            )
            return self._present(connection, digest) is None

        return await self._session.write(self._namespace, job, frees=True)

    @staticmethod
    def _present(connection: Connection, digest: Digest) -> int | None:
        row = connection.execute("SELECT size FROM blob WHERE digest = ? LIMIT 1", (digest,)).fetchone()
        return None if row is None else row[0]

    @override
    async def present(self, digest: Digest) -> int | None:
        return await self._session.read(lambda connection: self._present(connection, digest), few=True)

    @override
    async def elsewhere(self, digest: Digest) -> bool:
        def job(connection: Connection) -> bool:
            row = connection.execute(
                "SELECT 1 FROM blob WHERE digest = ? AND namespace <> ? LIMIT 1", (digest, self._namespace)
            ).fetchone()
            return row is not None

        return await self._session.read(job, few=True)

    @override
    async def open_ingest(self, row: IngestRow, *, lease: LeaseID | None = None) -> None:
        def job(connection: Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO ingest (namespace, ref, expected, total, started, expires) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    self._namespace,
                    row.ref,
                    row.expected,
                    row.total,
                    to_microseconds(row.started_at),
                    to_microseconds(row.expires_at),
                ),
            )
            if lease is not None:
                hold(self._session, connection, self._namespace, lease, Resource(kind="ingest", id=row.ref))
            expected = [] if row.expected is None else [Node("content", row.expected)]
            self._session.touch(self._namespace, [Node("ingest", row.ref), *expected])

        await self._session.write(self._namespace, job, durable=False)

    @override
    async def ingests(self) -> Sequence[IngestRow]:
        return await self._session.read(
            lambda connection: [
                IngestRow(
                    ref=IngestRef(ref),
                    expected=None if expected is None else Digest(expected),
                    total=total,
                    started_at=to_time(started),
                    expires_at=to_time(expires),
                )
                for ref, expected, total, started, expires in connection.execute(
                    "SELECT ref, expected, total, started, expires FROM ingest WHERE namespace = ? ORDER BY ref",
                    (self._namespace,),
                )
            ]
        )

    @override
    async def close_ingest(self, ref: IngestRef) -> None:
        await self._session.write(
            self._namespace, lambda connection: self._close_ingest(connection, ref), frees=True
        )

    def _close_ingest(self, connection: Connection, ref: IngestRef) -> None:
        connection.execute("DELETE FROM ingest WHERE namespace = ? AND ref = ?", (self._namespace, ref))
        connection.execute(
            "DELETE FROM lease_resource WHERE namespace = ? AND kind = 'ingest' AND id = ? AND snapshotter = ''",
            (self._namespace, ref),
        )
