"""Container records: what was asked for and what became of it, as documents that survive the daemon."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRecord:
    """One container. ``document`` is the service's own JSON object; the other fields are what others look up.

    ``snapshotter`` and ``snapshot_key`` name its writable snapshot; ``image`` is the digest of the image manifest and
    ``target`` of the image that it was created from: all three are kept by the collector as long as the record exists.
    """

    id: str
    name: str
    snapshotter: str
    snapshot_key: str
    image: str
    target: str
    document: Mapping[str, Any]


class Store(Protocol):
    """The container records of one namespace. Every call is one transaction, which is durable unless it says otherwise."""

    async def get(self, id: str) -> ContainerRecord:
        """The record of exactly this ID. Raises `NotFoundError`."""
        ...

    async def list(self) -> list[ContainerRecord]:
        """All records, oldest first."""
        ...

    async def create(self, record: ContainerRecord, *, durable: bool = True) -> None:
        """Raises `AlreadyExistsError` if the ID or the name is taken.

        Without ``durable`` a power cut may take it until a durable change of the same database has followed.
        """
        ...

    async def update(self, record: ContainerRecord) -> None:
        """Replace a record. Raises `NotFoundError`; `AlreadyExistsError` if the new name is taken."""
        ...

    async def delete(self, id: str) -> None:
        """Raises `NotFoundError`."""
        ...
