"""Schema versions: numbered SQL files, applied to a copy that then takes the old file's place.

A crash at any point leaves the old database or the new one. The old one is kept beside it, named by its version.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from lading.errors import FailedPreconditionError
from lading.kit.fs import fsync_directory
from lading.kit.sqlite import Connection, checked, connect, mapped

APPLICATION_ID: Final = 0x4C414449
"""``LADI``: what file(1) and we know our databases by."""
_SCHEMA: Final = Path(__file__).with_name("schema")
_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class NewerSchemaError(FailedPreconditionError):
    """The database was written by a newer Lading."""

    code = "newer-schema"


def released() -> list[str]:
    """The SQL of every version, oldest first."""
    files = sorted(file for file in _SCHEMA.iterdir() if _NAME.fullmatch(file.name))
    return [file.read_text("utf-8") for file in files]


def migrate(path: Path, steps: Sequence[str]) -> None:
    """Bring the database at ``path`` to version ``len(steps)``; creates it if it is missing. Idempotent.

    Raises:
        NewerSchemaError: It is newer than that.
        FailedPreconditionError: It is not a database of Lading's.
        DataLossError: It is damaged.

    """
    wal = Path(f"{path}-wal")
    unclean = wal.exists() and wal.stat().st_size > 0
    copy = path.with_name(f"{path.name}.migrating")
    _remove(copy)
    connection = connect(path)
    try:
        with mapped(path):
            version = _version(connection, path)
            if version > len(steps):
                raise NewerSchemaError(
                    f"{path} has schema version {version}; this Lading knows up to {len(steps)}",
                    hint="run the newer Lading, or restore the copy kept beside the database",
                    subject=str(path),
                )
            if unclean and version:
                checked(path, connection)
            if version == len(steps):
                return
            if version == 0:
                _apply(connection, steps, 0)
                return
            connection.execute("VACUUM INTO ?", (str(copy),))
    finally:
        connection.close()
    _replace(path, copy, steps, version)


def _version(connection: Connection, path: Path) -> int:
    version = connection.pragma("user_version")
    if version and connection.pragma("application_id") != APPLICATION_ID:
        raise FailedPreconditionError(f"{path} is not a database of Lading's", subject=str(path))
    return int(str(version))


def _apply(connection: Connection, steps: Sequence[str], version: int) -> None:
    """Each step is one transaction that also raises the version, so that a repeated run goes on where it ended."""
    for number, step in enumerate(steps[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(step)
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", number)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _replace(path: Path, copy: Path, steps: Sequence[str], version: int) -> None:
    connection = connect(copy)
    try:
        with mapped(copy):
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", version)
            _apply(connection, steps, version)
        checked(copy, connection)
    finally:
        connection.close()
    fd = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    kept = path.with_name(f"{path.name}.v{version}")
    with suppress(FileNotFoundError):
        os.unlink(kept)
    os.link(path, kept)
    fsync_directory(path.parent)
    os.rename(copy, path)
    fsync_directory(path.parent)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            os.unlink(f"{path}{suffix}")
