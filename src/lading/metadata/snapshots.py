"""Rows of snapshots."""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from typing_extensions import override

from lading.core import labels as label_rules
from lading.core import metadata, references
from lading.core.leases import LeaseID, Resource
from lading.core.metadata import Namespace, Node, SnapshotRow, check_replaceable
from lading.core.snapshots import Kind, Labels, SnapshotInfo, SnapshotName, Usage
from lading.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from lading.kit.sqlite import Connection
from lading.metadata.codec import dump, load_text_map, to_time
from lading.metadata.holding import hold
from lading.metadata.session import Session

_BLOCK: Final = 64
"""Directory numbers that are taken at once."""
_LOST: Final = "lost"
"""A boot ID that no boot has."""
_COLUMNS: Final = "id, key, kind, parent, created, updated, size, inodes, boot_id, labels, extra"
_WHERE: Final = "WHERE namespace = ? AND snapshotter = ?"
_SELECT: Final = f"SELECT {_COLUMNS} FROM snapshot {_WHERE}"  # noqa: S608 -- constants
_CHAIN: Final = """
WITH RECURSIVE chain (depth, key) AS (
    SELECT 0, ?3
    UNION ALL
    SELECT depth + 1, parent FROM chain JOIN snapshot USING (key)
    WHERE namespace = ?1 AND snapshotter = ?2 AND parent IS NOT NULL
)
SELECT chain.key, id, snapshot.key, kind, parent, created, updated, size, inodes, boot_id, labels, extra
FROM chain LEFT JOIN snapshot ON namespace = ?1 AND snapshotter = ?2 AND snapshot.key = chain.key ORDER BY depth
"""
_FOREIGN: Final = """
WITH RECURSIVE gone (key) AS (
    SELECT key FROM snapshot
    WHERE namespace = ?1 AND snapshotter = ?2 AND kind = 'committed' AND boot_id <> '' AND boot_id <> ?3
    UNION
    SELECT snapshot.key FROM gone JOIN snapshot ON snapshot.parent = gone.key
    WHERE namespace = ?1 AND snapshotter = ?2 AND kind = 'committed'
)
SELECT key FROM gone ORDER BY key
"""


def _row(columns: tuple[Any, ...]) -> SnapshotRow:
    number, key, kind, parent, created, updated, size, inodes, boot_id, labels, extra = columns
    return SnapshotRow(
        id=number,
        info=SnapshotInfo(
            key=key,
            kind=Kind(kind),
            parent=None if parent is None else SnapshotName(parent),
            created_at=to_time(created),
            updated_at=to_time(updated),
            labels=load_text_map(labels),
        ),
        usage=Usage(size=size, inodes=inodes),
        boot_id=boot_id,
        extra=load_text_map(extra),
    )


class SqliteSnapshots(metadata.Snapshots):
    """`metadata.Snapshots` of one namespace and snapshotter."""

    def __init__(self, session: Session, namespace: Namespace, snapshotter: str) -> None:
        self._session = session
        self._namespace = namespace
        self._snapshotter = snapshotter
        self._scope = (namespace, snapshotter)

    def _find(self, connection: Connection, key: str) -> SnapshotRow | None:
        row = connection.execute(f"{_SELECT} AND key = ?", (*self._scope, key)).fetchone()
        return None if row is None else _row(row)

    def _get(self, connection: Connection, key: str) -> SnapshotRow:
        if (row := self._find(connection, key)) is None:
            raise NotFoundError(f"no snapshot {key}", subject=key)
        return row

    def _hold(self, connection: Connection, key: str, lease: LeaseID | None) -> None:
        if lease is not None:
            resource = Resource(kind="snapshot", id=key, snapshotter=self._snapshotter)
            hold(self._session, connection, self._namespace, lease, resource)

    def _touch(self, key: str, parent: str | None, labels: Mapping[str, str]) -> None:
        nodes = [Node("snapshot", name, self._snapshotter) for name in (key, parent) if name is not None]
        self._session.touch(self._namespace, nodes + references.forward(labels))

    def _update(self, connection: Connection, key: str, /, **columns: str | int) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        connection.execute(
            f"UPDATE snapshot SET {names} {_WHERE} AND key = ?",  # noqa: S608 -- names are ours
            (*columns.values(), *self._scope, key),
        )

    @override
    async def get(self, key: str) -> SnapshotRow:
        return await self._session.read(lambda connection: self._get(connection, key), few=True)

    @override
    async def chain(self, key: str) -> Sequence[SnapshotRow]:
        def job(connection: Connection) -> Sequence[SnapshotRow]:
            rows: list[SnapshotRow] = []
            for name, *columns in connection.execute(_CHAIN, (*self._scope, key)):
                if columns[0] is None:
                    raise NotFoundError(
                        f"no snapshot {name}" + (f", which {key} stands on" if name != key else ""),
                        subject=str(name),
                    )
                rows.append(_row(tuple(columns)))
            return rows

        return await self._session.read(job, few=True)

    @override
    async def list(self) -> Sequence[SnapshotRow]:
        return await self._session.read(
            lambda connection: [
                _row(row) for row in connection.execute(f"{_SELECT} ORDER BY key", self._scope)
            ]
        )

    @override
    async def allocate(self) -> int:
        # A whole block at once, so that most calls wait for no disk; what a process leaves of it is never given out.
        if not self._session.snapshot_ids:

            def job(connection: Connection) -> int:
                return int(
                    connection.execute(
                        f"UPDATE snapshot_id SET last = last + {_BLOCK} RETURNING last"  # noqa: S608 -- a constant
                    ).fetchall()[0][0]
                )

            last = await self._session.write(None, job)
            self._session.snapshot_ids += range(last, last - _BLOCK, -1)
        return self._session.snapshot_ids.pop()

    @override
    async def create(
        self,
        key: str,
        *,
        id: int,
        kind: Kind,
        parent: str | None,
        labels: Labels,
        usage: Usage,
        boot_id: str = "",
        extra: Mapping[str, str] | None = None,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> SnapshotRow:
        label_rules.check(labels)

        def job(connection: Connection) -> SnapshotRow:
            if self._find(connection, key) is not None:
                raise AlreadyExistsError(f"snapshot {key} exists", subject=key)
            if parent is not None and self._get(connection, parent).info.kind is not Kind.COMMITTED:
                raise InvalidArgumentError(
                    f"the parent {parent} of snapshot {key} is not committed", subject=parent
                )
            now = self._session.now()
            columns = (id, key, kind.value, parent, now, now, usage.size, usage.inodes, boot_id, dump(labels))
            connection.execute(
                f"INSERT INTO snapshot (namespace, snapshotter, {_COLUMNS}) "  # noqa: S608 -- constants
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*self._scope, *columns, dump(extra or {})),
            )
            self._hold(connection, key, lease)
            self._touch(key, parent, labels)
            return self._get(connection, key)

        # What does not survive a power cut needs no row that does.
        return await self._session.write(self._namespace, job, durable=durable and not boot_id)

    @override
    async def commit(
        self,
        name: str,
        key: str,
        *,
        labels: Labels,
        usage: Usage,
        boot_id: str = "",
        lease: LeaseID | None = None,
    ) -> SnapshotRow:
        label_rules.check(labels)

        def job(connection: Connection) -> SnapshotRow:
            if self._find(connection, name) is not None:
                raise AlreadyExistsError(f"snapshot {name} exists", subject=name)
            active = self._get(connection, key)
            if active.info.kind is not Kind.ACTIVE:
                raise FailedPreconditionError(
                    f"snapshot {key} is {active.info.kind.value}, not active", subject=key
                )
            now = self._session.now()
            self._update(
                connection,
                key,
                key=name,
                kind=Kind.COMMITTED.value,
                created=now,
                updated=now,
                size=usage.size,
                inodes=usage.inodes,
                boot_id=boot_id,
                labels=dump(labels),
            )
            # Whoever held the key holds what became of it.
            connection.execute(
                "UPDATE OR REPLACE lease_resource SET id = ?4 "
                "WHERE namespace = ?1 AND kind = 'snapshot' AND id = ?3 AND snapshotter = ?2",
                (*self._scope, key, name),
            )
            self._hold(connection, name, lease)
            self._touch(name, active.info.parent, labels)
            return self._get(connection, name)

        # What does not survive a power cut needs no row that does.
        return await self._session.write(self._namespace, job, durable=not boot_id)

    @override
    async def mark_durable(self, ids: Sequence[int]) -> None:
        await self._set_boot(ids, "")

    @override
    async def mark_lost(self, ids: Sequence[int]) -> None:
        await self._set_boot(ids, _LOST)

    async def _set_boot(self, ids: Sequence[int], boot_id: str) -> None:
        def job(connection: Connection) -> None:
            connection.executemany(
                f"UPDATE snapshot SET boot_id = ? {_WHERE} AND id = ?",  # noqa: S608 -- constants
                [(boot_id, *self._scope, number) for number in ids],
            )

        if ids:
            await self._session.write(self._namespace, job)

    @override
    async def discard_foreign_boots(self, boot_id: str) -> Sequence[SnapshotRow]:
        def job(connection: Connection) -> Sequence[SnapshotRow]:
            keys = [str(row[0]) for row in connection.execute(_FOREIGN, (*self._scope, boot_id))]
            rows = [self._get(connection, key) for key in keys]
            for row in rows:
                connection.execute("DELETE FROM snapshot WHERE id = ?", (row.id,))
            return rows

        return await self._session.write(self._namespace, job, frees=True)

    @override
    async def hold(self, key: str, lease: LeaseID) -> bool:
        def job(connection: Connection) -> bool:
            if self._find(connection, key) is None:
                return False
            self._hold(connection, key, lease)
            return True

        return await self._session.write(self._namespace, job, durable=False)

    @override
    async def update(self, key: str, labels: Mapping[str, str | None]) -> SnapshotRow:
        label_rules.check(labels)

        def job(connection: Connection) -> SnapshotRow:
            old = self._get(connection, key).info
            merged = label_rules.merge(old.labels, labels)
            self._update(connection, key, labels=dump(merged), updated=self._session.now())
            self._touch(key, old.parent, merged)
            return self._get(connection, key)

        return await self._session.write(self._namespace, job)

    @override
    async def delete(self, key: str) -> SnapshotRow:
        def job(connection: Connection) -> SnapshotRow:
            row = self._get(connection, key)
            if child := self._child(connection, key):
                raise FailedPreconditionError(
                    f"snapshot {key} has a child, {child}", hint="remove its children first", subject=key
                )
            connection.execute("DELETE FROM snapshot WHERE id = ?", (row.id,))
            return row

        return await self._session.write(self._namespace, job, frees=True)

    @override
    async def replace(self, name: str, copy: str) -> SnapshotRow:
        def job(connection: Connection) -> SnapshotRow:
            old, new = self._get(connection, name), self._get(connection, copy)
            check_replaceable(old, new, child=self._child(connection, copy))
            connection.execute("DELETE FROM snapshot WHERE id = ?", (new.id,))
            self._update(
                connection,
                name,
                id=new.id,
                size=new.usage.size,
                inodes=new.usage.inodes,
                boot_id=new.boot_id,
                extra=dump(new.extra),
                updated=self._session.now(),
            )
            self._touch(name, old.info.parent, old.info.labels)
            return old

        return await self._session.write(self._namespace, job, frees=True)

    @override
    async def removed(self) -> AbstractSet[tuple[str, str]]:
        return await self._session.read(
            lambda connection: {
                (str(key), str(tree))
                for key, tree in connection.execute(
                    f"SELECT key, tree FROM removed_snapshot {_WHERE}",  # noqa: S608 -- constants
                    self._scope,
                )
            }
        )

    @override
    async def forget_removed(self, gone: Collection[tuple[str, str]]) -> None:
        rows = [(*self._scope, key, tree) for key, tree in gone]
        if rows:
            await self._session.write(
                None,
                lambda connection: connection.executemany(
                    f"DELETE FROM removed_snapshot {_WHERE} AND key = ? AND tree = ?",  # noqa: S608 -- constants
                    rows,
                ),
                durable=False,
            )

    def _child(self, connection: Connection, key: str) -> str | None:
        row = connection.execute(
            f"SELECT key FROM snapshot {_WHERE} AND parent = ? LIMIT 1",  # noqa: S608 -- constants
            (*self._scope, key),
        ).fetchone()
        return None if row is None else row[0]
