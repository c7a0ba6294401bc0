"""A new database out of what can still be read of a damaged one.

Every table is read row by row, from its beginning and from its end, until SQLite meets a page that it cannot read: what lies
between two such pages is lost. A row comes along if its values are what its columns hold. What is derived from other rows (facts
and sums of images) does not come along; it is made again when it is asked for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from lading.errors import DataLossError, FailedPreconditionError, LadingError
from lading.kit.sqlite import Connection, Row, connect
from lading.metadata.migrate import NewerSchemaError, migrate, released

_TABLES: Final = (
    "setting",
    "blob",
    "ingest",
    "image",
    "lease",
    "lease_resource",
    "snapshot",
    "snapshot_id",
    "removed_snapshot",
    "container",
    "network",
    "volume",
    "build",
    "build_record",
    "build_key",
    "build_link",
    "build_layer",
    "build_digest",
)
"""What is no other row's consequence; those that others refer to first."""
_JSON: Final = frozenset(("labels", "target", "extra", "document", "layers", "blobs", "own", "descriptor"))
_NOT_JSON: Final = frozenset((("container", "target"), ("build_link", "target")))


@dataclass(slots=True)
class Recovered:
    """What came of it. ``damaged`` are the tables of which rows may be lost, with what SQLite said."""

    rows: dict[str, int] = field(default_factory=dict[str, int])
    damaged: dict[str, str] = field(default_factory=dict[str, str])


def recover(source: Path, target: Path, *, last_snapshot: int) -> Recovered:
    """Make the database ``target``, at this Lading's version, out of the rows of ``source`` that can be read. Blocking.

    ``source`` is a copy that nobody else uses, or is not there. Numbers of snapshots' directories up to ``last_snapshot`` are not
    given out again.

    Raises:
        NewerSchemaError: A newer Lading wrote it.
        FailedPreconditionError: It is whole, and not a database of Lading's.

    """
    steps = released()
    found = Recovered()
    old = _open(source, found) if source.exists() and source.stat().st_size else None
    try:
        version = _version(old, source, len(steps), found) if old else 0
        if old is None or not version:
            version = len(steps)
        migrate(target, steps[:version])
        new = connect(target)
        try:
            if old is not None and "all" not in found.damaged:
                _copy(old, new, found)
            new.execute(
                "UPDATE snapshot_id SET last = max(last, ?, coalesce((SELECT max(id) FROM snapshot), 0))",
                (last_snapshot,),
            )
        finally:
            new.close()
        migrate(target, steps)
    finally:
        if old is not None:
            old.close()
    # What a migration keeps beside a database is here what was just made.
    for kept in target.parent.glob(f"{target.name}.v*"):
        kept.unlink()
    return found


def _open(source: Path, found: Recovered) -> Connection | None:
    try:
        return connect(source)
    except DataLossError as exc:
        found.damaged["all"] = exc.message
        return None


def _version(old: Connection, source: Path, newest: int, found: Recovered) -> int:
    try:
        version = int(old.pragma("user_version"))
        ours = _is_ours(old)
    except apsw.Error as exc:
        found.damaged["all"] = str(exc)
        return 0
    if version and not ours:
        raise FailedPreconditionError(f"{source.name} is not a database of Lading's", subject=str(source))
    if version > newest:
        raise NewerSchemaError(
            f"{source.name} has schema version {version}; this Lading knows up to {newest}",
            hint="rebuild it with the newer Lading",
            subject=str(source),
        )
    return version


def _is_ours(old: Connection) -> bool:
    return bool(old.execute("SELECT 1 FROM sqlite_schema WHERE name = 'lease_resource'").fetchone())


def _copy(old: Connection, new: Connection, found: Recovered) -> None:
    for table in _TABLES:
        columns = {str(row[1]): int(row[5]) for row in new.execute(f"PRAGMA table_info({table})")}
        if not columns:
            continue  # of a later version
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 -- constants
        count = 0
        new.execute("BEGIN IMMEDIATE")
        for row in _rows(old, table, columns, found):
            new.execute("SAVEPOINT row")
            try:
                _check(table, dict(zip(columns, row, strict=True)))
                new.execute(statement, row)
                count += 1
            except (apsw.Error, LadingError, ValueError) as exc:
                new.execute("ROLLBACK TO row")
                found.damaged.setdefault(table, str(exc))
            new.execute("RELEASE row")
        new.execute("COMMIT")
        found.rows[table] = count


def _rows(old: Connection, table: str, columns: Mapping[str, int], found: Recovered) -> Iterator[Row]:
    """The rows of a table from its beginning, and if that ends early those from its end."""
    keys = [name for name, place in columns.items() if place]  # in the order of every schema so far
    places = [list(columns).index(name) for name in keys]
    seen: set[Row] = set()
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{name} {direction}" for name in keys)
        statement = f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED ORDER BY {order}"  # noqa: S608 -- constants
        try:
            for row in old.execute(statement):
                key = tuple(row[place] for place in places)
                if key not in seen:
                    seen.add(key)
                    yield row
        except apsw.Error as exc:
            found.damaged.setdefault(table, str(exc))
        else:
            return


def _check(table: str, values: Mapping[str, Any]) -> None:
    """Raise `ValueError` for what this Lading could not have written: a page may be readable and hold something else."""
    for column, value in values.items():
        if column in _JSON and (table, column) not in _NOT_JSON:
            try:
                msgspec.json.decode(value)
            except (msgspec.DecodeError, TypeError) as exc:
                raise ValueError(f"{column} is no JSON: {exc}") from exc
