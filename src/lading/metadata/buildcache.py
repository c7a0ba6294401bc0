"""Rows of the build cache."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from typing_extensions import override

from lading.core import buildcache
from lading.core.buildcache import BuildRecord, LayerBlob, LinkRow, Step
from lading.core.leases import LeaseID, Resource
from lading.core.metadata import Namespace, Node
from lading.errors import NotFoundError
from lading.kit.sqlite import FEW, Connection
from lading.metadata.codec import dump, load_descriptor, load_text_map
from lading.metadata.holding import hold
from lading.metadata.session import Session
from lading.oci.digest import DiffID, Digest

_COLUMNS: Final = (
    "id, kind, description, snapshotter, layers, mutable, blobs, own, size, created, used, uses, extra"
)
_SELECT: Final = f"SELECT {_COLUMNS} FROM build_record WHERE namespace = ?"  # noqa: S608 -- constants
_INSERT: Final = f"INSERT INTO build_record (namespace, {_COLUMNS}) VALUES ({', '.join('?' * 14)})"  # noqa: S608
_TARGETS: Final = "SELECT target FROM build_link WHERE namespace = ? AND source = ? AND output = ? AND input = ? AND selector = ?"
_LINK: Final = f"{_TARGETS} AND target = ?"
_PUT_LINK: Final = """
INSERT INTO build_link (namespace, source, output, input, selector, target) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_NEWEST: Final = """
SELECT created, record FROM build_key JOIN build_record ON build_record.namespace = build_key.namespace AND id = record
WHERE build_key.namespace = ?1 AND key = ?2 ORDER BY created DESC LIMIT 1
"""
_HISTORY: Final = """
WITH RECURSIVE way (key) AS (
    SELECT value FROM json_each(?2)
    UNION
    SELECT source FROM way JOIN build_link ON namespace = ?1 AND target = way.key
)
SELECT source, output, input, selector, target FROM way JOIN build_link ON namespace = ?1 AND target = way.key
ORDER BY target, input, source, selector
"""
_DEAD_LINKS: Final = """
DELETE FROM build_link AS one WHERE namespace = ?1
AND NOT EXISTS (SELECT 1 FROM build_key WHERE namespace = ?1 AND key = one.target)
AND NOT EXISTS (SELECT 1 FROM build_link WHERE namespace = ?1 AND source = one.target)
"""


def _record(row: tuple[Any, ...]) -> BuildRecord:
    name, kind, description, snapshotter, layers, mutable, blobs, own, size, created, used, uses, extra = row
    return BuildRecord(
        id=name,
        kind=kind,
        description=description,
        snapshotter=snapshotter,
        layers=tuple(json.loads(layers)),
        mutable=mutable,
        blobs=tuple(map(Digest, json.loads(blobs))),
        own=tuple(json.loads(own)),
        size=size,
        created_at=created,
        used_at=used,
        uses=uses,
        extra=load_text_map(extra),
    )


def lease_of(record: str) -> LeaseID:
    """The lease through which a record holds what it needs."""
    return LeaseID(f"build-{record}")


class SqliteBuildCache(buildcache.BuildCache):
    """`buildcache.BuildCache` of one namespace."""

    def __init__(self, session: Session, namespace: Namespace) -> None:
        self._session = session
        self._namespace = namespace

    @override
    async def find(self, output: str, inputs: Sequence[Sequence[Step]]) -> tuple[frozenset[str], str | None]:
        return await self._session.read(lambda connection: self._find(connection, output, inputs), few=True)

    def _find(
        self, connection: Connection, output: str, inputs: Sequence[Sequence[Step]]
    ) -> tuple[frozenset[str], str | None]:
        keys: frozenset[str] | None = None if inputs else frozenset({output})
        for number, steps in enumerate(inputs):
            found = frozenset(
                target
                for key, selector in steps
                for (target,) in connection.execute(
                    _TARGETS, (self._namespace, key, output, number, selector)
                )
            )
            keys = found if keys is None else keys & found
            if not keys:
                return frozenset(), None
        return keys or frozenset(), self._newest(connection, keys or ())

    def _newest(self, connection: Connection, keys: "frozenset[str] | Sequence[str]") -> str | None:
        newest: tuple[int, str] | None = None
        for key in keys:
            row = connection.execute(_NEWEST, (self._namespace, key)).fetchone()
            if row is not None and (newest is None or row > newest):
                newest = (int(row[0]), str(row[1]))
        return newest[1] if newest else None

    @override
    async def add(
        self,
        record: BuildRecord,
        *,
        keys: Sequence[str] = (),
        output: str = "",
        inputs: Sequence[Sequence[Step]] = (),
    ) -> None:
        def job(connection: Connection) -> None:
            for key in keys:
                older = connection.execute(
                    "SELECT record FROM build_key WHERE namespace = ? AND key = ?", (self._namespace, key)
                ).fetchall()
                for (one,) in older:
                    self._erase(connection, str(one))
            connection.execute(_INSERT, (self._namespace, *_columns(record)))
            connection.executemany(
                "INSERT INTO build_key (namespace, key, record) VALUES (?, ?, ?)",
                [(self._namespace, key, record.id) for key in keys],
            )
            connection.executemany(_PUT_LINK, self._links(output, inputs, keys))
            self._hold(connection, record)

        await self._session.write(self._namespace, job, durable=False)

    def _hold(self, connection: Connection, record: BuildRecord) -> None:
        lease = lease_of(record.id)
        connection.execute(
            "INSERT INTO lease (namespace, id, created, labels) VALUES (?, ?, ?, '{}')",
            (self._namespace, lease, self._session.now()),
        )
        self._session.touch(self._namespace, [Node("lease", lease)])
        names = [*record.layers, *([record.mutable] if record.mutable else [])]
        held = [Resource(kind="snapshot", id=name, snapshotter=record.snapshotter) for name in names]
        held += [Resource(kind="content", id=digest) for digest in record.blobs]
        for resource in held:
            hold(self._session, connection, self._namespace, lease, resource)

    def _links(
        self, output: str, inputs: Sequence[Sequence[Step]], keys: Sequence[str]
    ) -> Sequence[tuple[str | int, ...]]:
        return [
            (self._namespace, step.key, output, number, step.selector, key)
            for number, steps in enumerate(inputs)
            for step in steps
            for key in keys
        ]

    @override
    async def connect(self, output: str, inputs: Sequence[Sequence[Step]], keys: Sequence[str]) -> None:
        links = self._links(output, inputs, keys)
        # Most are there: that is how the keys were found.
        known = len(links) <= FEW and await self._session.read(
            lambda connection: all(connection.execute(_LINK, link).fetchone() for link in links), few=True
        )
        if not known:
            await self._session.write(
                self._namespace, lambda connection: connection.executemany(_PUT_LINK, links), durable=False
            )

    @override
    async def get(self, id: str) -> BuildRecord:
        row = await self._session.read(
            lambda connection: connection.execute(f"{_SELECT} AND id = ?", (self._namespace, id)).fetchone(),
            few=True,
        )
        if row is None:
            raise NotFoundError(f"no build cache record {id}", subject=id)
        return _record(row)

    @override
    async def list(self) -> Sequence[BuildRecord]:
        return await self._session.read(
            lambda connection: [
                _record(row) for row in connection.execute(f"{_SELECT} ORDER BY used, id", (self._namespace,))
            ]
        )

    @override
    async def touch(self, ids: Sequence[str], *, now: int) -> None:
        def job(connection: Connection) -> None:
            connection.executemany(
                "UPDATE build_record SET used = ?, uses = uses + 1 WHERE namespace = ? AND id = ?",
                [(now, self._namespace, one) for one in ids],
            )

        await self._session.write(self._namespace, job, durable=False)

    @override
    async def resize(self, id: str, size: int) -> None:
        await self._session.write(
            self._namespace,
            lambda connection: connection.execute(
                "UPDATE build_record SET size = ? WHERE namespace = ? AND id = ?",
                (size, self._namespace, id),
            ).fetchall(),
            durable=False,
        )

    @override
    async def delete(self, ids: Sequence[str]) -> "list[str]":
        def job(connection: Connection) -> "list[str]":
            gone = [one for one in ids if self._erase(connection, one)]
            while gone:
                connection.execute(_DEAD_LINKS, (self._namespace,))
                if not connection.changes():
                    break
            return gone

        return await self._session.write(self._namespace, job, frees=True)

    def _erase(self, connection: Connection, id: str) -> bool:
        connection.execute("DELETE FROM build_record WHERE namespace = ? AND id = ?", (self._namespace, id))
        gone = connection.changes() > 0
        connection.execute(
            "DELETE FROM lease WHERE namespace = ? AND id = ?", (self._namespace, lease_of(id))
        )
        return gone

    @override
    async def history(self, keys: Sequence[str]) -> "tuple[Sequence[LinkRow], Mapping[str, str]]":
        def job(connection: Connection) -> "tuple[Sequence[LinkRow], Mapping[str, str]]":
            links = [
                LinkRow(*row)
                for row in connection.execute(_HISTORY, (self._namespace, json.dumps(list(keys))))
            ]
            every = {*keys, *(link.source for link in links)}
            records = {key: self._newest(connection, [key]) for key in sorted(every)}
            return links, {key: record for key, record in records.items() if record is not None}

        return await self._session.read(job)

    @override
    async def layer(self, snapshotter: str, snapshot: str, form: str) -> LayerBlob | None:
        row = await self._session.read(
            lambda connection: connection.execute(
                "SELECT descriptor, diff_id FROM build_layer "
                "WHERE namespace = ? AND snapshotter = ? AND snapshot = ? AND form = ?",
                (self._namespace, snapshotter, snapshot, form),
            ).fetchone(),
            few=True,
        )
        return LayerBlob(descriptor=load_descriptor(row[0]), diff_id=DiffID(row[1])) if row else None

    @override
    async def put_layer(self, snapshotter: str, snapshot: str, form: str, layer: LayerBlob) -> None:
        await self._say(
            "build_layer (descriptor, diff_id, namespace, snapshotter, snapshot, form)",
            (dump(layer.descriptor), layer.diff_id),
            snapshotter,
            snapshot,
            form,
        )

    @override
    async def digest(self, snapshotter: str, snapshot: str, part: str) -> Digest | None:
        row = await self._session.read(
            lambda connection: connection.execute(
                "SELECT digest FROM build_digest WHERE namespace = ? AND snapshotter = ? AND snapshot = ? AND part = ?",
                (self._namespace, snapshotter, snapshot, part),
            ).fetchone(),
            few=True,
        )
        return Digest(row[0]) if row else None

    @override
    async def put_digest(self, snapshotter: str, snapshot: str, part: str, digest: Digest) -> None:
        await self._say(
            "build_digest (digest, namespace, snapshotter, snapshot, part)",
            (digest,),
            snapshotter,
            snapshot,
            part,
        )

    async def _say(
        self, into: str, values: tuple[str, ...], snapshotter: str, snapshot: str, about: str
    ) -> None:
        """Replace a row about a snapshot that exists."""
        marks = ", ".join("?" * (len(values) + 1))
        statement = (
            f"INSERT OR REPLACE INTO {into} SELECT {marks}, snapshotter, key, ? FROM snapshot "  # noqa: S608
            "WHERE namespace = ? AND snapshotter = ? AND key = ?"
        )
        scope = (self._namespace, snapshotter, snapshot)
        await self._session.write(
            None,
            lambda connection: connection.execute(
                statement, (*values, self._namespace, about, *scope)
            ).fetchall(),
            durable=False,
        )


def _columns(record: BuildRecord) -> tuple[str | int, ...]:
    return (
        record.id,
        record.kind,
        record.description,
        record.snapshotter,
        json.dumps(record.layers),
        record.mutable,
        json.dumps(record.blobs),
        json.dumps(record.own),
        record.size,
        record.created_at,
        record.used_at,
        record.uses,
        dump(record.extra),
    )
