"""Rows of facts. The sums in them are kept by triggers (``schema/0002_facts.sql``)."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from typing_extensions import override

from lading.core import facts
from lading.core.facts import Inventory, ListedManifest, ManifestSummary, Summary, TargetFacts
from lading.core.metadata import Namespace
from lading.kit.sqlite import Connection
from lading.metadata.codec import dump, encode_list, load_text_map
from lading.metadata.session import Session
from lading.oci.digest import Digest

_Part = tuple[str, str]
"""Kind and digest."""
_decoder: Final = msgspec.json.Decoder(TargetFacts, dec_hook=lambda kind, value: kind(value))
_listed: Final = msgspec.json.Decoder(ListedManifest, dec_hook=lambda kind, value: kind(value))
_encoder: Final = msgspec.json.Encoder(enc_hook=str)
_TARGET: Final = "SELECT id FROM target WHERE namespace = ?1 AND digest = ?2"
_PUT: Final = """
INSERT INTO target (namespace, digest, readable, created, labels)
SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM image WHERE namespace = ?1 AND digest = ?2)
ON CONFLICT DO UPDATE SET readable = excluded.readable, created = excluded.created, labels = excluded.labels
RETURNING id
"""
_PUT_FACTS: Final = "INSERT OR REPLACE INTO target_facts (target, facts) VALUES (?, ?)"
_HELD: Final = "SELECT kind, digest, part, seen FROM holding JOIN part ON part.id = part WHERE target = ?"
_PUT_PART: Final = """
INSERT INTO part (namespace, kind, digest, size, copies)
SELECT ?1, ?2, ?3, coalesce(sum(size), 0), count(*) FROM (
    SELECT iif(away, 0, size) AS size FROM blob WHERE ?2 = 'blob' AND namespace = ?1 AND digest = ?3
    UNION ALL
    SELECT size FROM snapshot WHERE ?2 = 'snapshot' AND namespace = ?1 AND key = ?3 AND kind = 'committed'
) WHERE true
ON CONFLICT DO NOTHING
"""
_HOLD: Final = """
INSERT INTO holding (part, target, seen) SELECT id, ?4, ?5 FROM part WHERE namespace = ?1 AND kind = ?2 AND digest = ?3
"""
_JUDGE: Final = """
UPDATE target SET stale = EXISTS (
    SELECT 1 FROM holding JOIN part ON part.id = holding.part
    WHERE holding.target = target.id AND seen IS NOT NULL
    AND seen <> EXISTS (SELECT 1 FROM blob WHERE namespace = part.namespace AND digest = part.digest)
) WHERE id = ? RETURNING stale
"""
_PUT_MANIFEST: Final = "INSERT INTO manifest (target, number, listed, document, parts) VALUES (?, ?, ?, ?, ?)"
_MANIFESTS: Final = """
SELECT target.digest, listed, document AND NOT max(part.kind = 'blob' AND copies = 0),
    sum(iif(part.kind = 'blob', part.size, 0)), sum(iif(part.kind = 'snapshot', part.size, 0))
FROM manifest CROSS JOIN target ON target.id = manifest.target
CROSS JOIN json_each(parts) AS each CROSS JOIN part ON part.id = each.value
WHERE target.namespace = ?1 AND NOT stale {} GROUP BY manifest.target, number
"""
_ALL_MANIFESTS: Final = _MANIFESTS.format(
    ""
)  # in the order of the table: sorting would take most of the time
_OF_ONE: Final = _MANIFESTS.format(f"AND manifest.target = ({_TARGET})")
_EXCLUSIVE: Final = """
SELECT kind, digest, size FROM part JOIN (
    SELECT part, count(*) AS held FROM holding JOIN target ON target.id = holding.target
    WHERE namespace = ?1 AND digest IN (SELECT value FROM json_each(?2)) GROUP BY part
) ON part = part.id WHERE held = holders AND copies > 0
"""


def _parts(known: TargetFacts) -> dict[_Part, int | None]:
    """Every part of a target, with whether it is a document that was here."""
    found: dict[_Part, int | None] = {("snapshot", chain): None for chain in known.chains()}
    found.update({("blob", digest): None for digest in known.blobs()})
    found.update({("blob", digest): int(here) for digest, here in known.documents.items()})
    return found


def _manifests(
    target: int, known: TargetFacts, rows: Mapping[_Part, int]
) -> Iterator[tuple[int, int, str, bool, str]]:
    """The rows of a target's manifests; ``rows`` are those of its parts."""
    for number, each in enumerate(known.manifests):
        listed = ListedManifest(descriptor=each.descriptor, kind=each.kind, platform=each.platform)
        parts = [rows["blob", digest] for digest in each.blobs]
        parts += [rows["snapshot", chain] for chain in set(each.chain)]
        yield (
            target,
            number,
            _encoder.encode(listed).decode(),
            each.document,
            msgspec.json.encode(parts).decode(),
        )


class SqliteFacts(facts.Store):
    """`facts.Store` of one namespace."""

    def __init__(self, session: Session, namespace: Namespace) -> None:
        self._session = session
        self._namespace = namespace

    @override
    async def get(self, target: Digest) -> TargetFacts | None:
        rows = await self._session.read(
            lambda connection: connection.execute(
                "SELECT facts FROM target JOIN target_facts ON target = id WHERE namespace = ? AND digest = ? AND NOT stale",
                (self._namespace, target),
            ).fetchall(),
            few=True,
        )
        return _decoder.decode(rows[0][0]) if rows else None

    @override
    async def put(self, facts: TargetFacts) -> bool:
        text = _encoder.encode(facts).decode()
        summary = (facts.best is not None, facts.created, dump(facts.labels))

        def job(connection: Connection) -> bool:
            row = connection.execute(_PUT, (self._namespace, facts.target.digest, *summary)).fetchall()
            if not row:
                return False
            target = int(row[0][0])
            connection.execute(_PUT_FACTS, (target, text))
            held = self._hold(connection, target, _parts(facts))
            connection.execute("DELETE FROM manifest WHERE target = ?", (target,))
            connection.executemany(_PUT_MANIFEST, _manifests(target, facts, held))
            return not connection.execute(_JUDGE, (target,)).fetchall()[0][0]

        return await self._session.write(None, job, durable=False)  # they can be read again

    def _hold(
        self, connection: Connection, target: int, wanted: Mapping[_Part, int | None]
    ) -> Mapping[_Part, int]:
        """Let the target hold exactly these parts; their rows."""
        for kind, digest, part, seen in connection.execute(_HELD, (target,)).fetchall():
            if (kind, digest) not in wanted:
                connection.execute("DELETE FROM holding WHERE part = ? AND target = ?", (part, target))
            elif wanted[kind, digest] != seen:
                connection.execute(
                    "UPDATE holding SET seen = ? WHERE part = ? AND target = ?",
                    (wanted[kind, digest], part, target),
                )
        held = {(kind, digest) for kind, digest, *_ in connection.execute(_HELD, (target,))}
        new = {part: seen for part, seen in wanted.items() if part not in held}
        connection.executemany(_PUT_PART, [(self._namespace, *part) for part in new])
        connection.executemany(_HOLD, [(self._namespace, *part, target, seen) for part, seen in new.items()])
        return {(kind, digest): part for kind, digest, part, _ in connection.execute(_HELD, (target,))}

    @override
    async def forget_all(self) -> None:
        await self._session.write(
            None,
            lambda connection: connection.execute(
                "UPDATE target SET stale = 1 WHERE namespace = ?", (self._namespace,)
            ),
        )

    @override
    async def list(self) -> Sequence[TargetFacts]:
        return await self._session.read(
            lambda connection: [
                _decoder.decode(row[0])
                for row in connection.execute(
                    "SELECT facts FROM target JOIN target_facts ON target = id WHERE namespace = ? AND NOT stale",
                    (self._namespace,),
                )
            ]
        )

    @override
    def version(self) -> int:
        return self._session.changes

    @override
    async def summaries(self) -> Sequence[Summary]:
        return await self._session.read(
            lambda connection: [
                Summary(digest, bool(readable), created, load_text_map(labels), size, shared)
                for digest, readable, created, labels, size, shared in connection.execute(
                    "SELECT digest, readable, created, labels, size, shared FROM target "
                    "WHERE namespace = ? AND NOT stale",
                    (self._namespace,),
                )
            ]
        )

    @override
    async def manifests(self, target: Digest | None = None) -> Sequence[ManifestSummary]:
        wanted = (_ALL_MANIFESTS, (self._namespace,))
        if target is not None:
            wanted = (_OF_ONE, (self._namespace, target))
        return await self._session.read(
            lambda connection: [
                ManifestSummary(digest, _listed.decode(listed), bool(available), content, unpacked)
                for digest, listed, available, content, unpacked in connection.execute(*wanted)
            ]
        )

    @override
    async def inventory(self, target: Digest | None = None) -> Inventory:
        def job(connection: Connection) -> Inventory:
            if target is None:
                rows = connection.execute(
                    "SELECT kind, digest, size FROM part WHERE namespace = ? AND copies > 0",
                    (self._namespace,),
                )
            else:
                rows = connection.execute(
                    "SELECT kind, part.digest, part.size FROM target JOIN holding ON target = target.id "
                    "JOIN part ON part.id = part "
                    "WHERE target.namespace = ? AND target.digest = ? AND part.copies > 0",
                    (self._namespace, target),
                )
            return _inventory(rows)

        return await self._session.read(job)

    @override
    async def total(self) -> int:
        return await self._session.read(
            lambda connection: int(
                connection.execute(
                    "SELECT coalesce(sum(size), 0) FROM part WHERE namespace = ?", (self._namespace,)
                ).fetchall()[0][0]
            )
        )

    @override
    async def exclusive(self, targets: Collection[Digest]) -> Inventory:
        chosen = encode_list(targets)
        return await self._session.read(
            lambda connection: _inventory(connection.execute(_EXCLUSIVE, (self._namespace, chosen)))
        )


def _inventory(rows: Iterable[tuple[str, str, int]]) -> Inventory:
    blobs: dict[str, int] = {}
    snapshots: dict[str, int] = {}
    for kind, digest, size in rows:
        (blobs if kind == "blob" else snapshots)[digest] = size
    return Inventory(blobs=blobs, snapshots=snapshots)
