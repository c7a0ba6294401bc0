"""Leases: hold things against the garbage collector while work is under way.

A *lease* is a named set of resources. While it exists and has not expired, its resources and whatever they refer
to are kept. Every long operation creates one first, passes it to each call that makes something, and deletes it
when the result is held by something permanent, such as an image. A resource joins its lease in the
transaction that creates it; there is no moment at which the collector could see it unheld.

A lease outlives the process. It outlives a power cut if something durable was written after it, which is when it matters:
what it holds is written after it.

Label `EXPIRE` gives a time (RFC 3339) after which the lease holds nothing; label `FLAT` keeps the
resources alone and not what they refer to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NewType, Protocol

LeaseID = NewType("LeaseID", str)
EXPIRE = "containerd.io/gc.expire"
FLAT = "containerd.io/gc.flat"
BUILDS = "lading.builder"
"""On a lease that holds what builds under way make. One that is there when a daemon starts is left of one that died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A thing that a lease holds. ``snapshotter`` is set for snapshots only."""

    kind: Literal["content", "snapshot", "ingest", "image"]
    id: str
    snapshotter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease; times are UTC."""

    id: LeaseID
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class Manager(Protocol):
    """The leases of one namespace."""

    async def create(self, id: LeaseID | None = None, *, labels: Mapping[str, str] | None = None) -> Lease:
        """Create a lease, with a random ID if none is given. Raises `AlreadyExistsError`."""
        ...

    async def delete(self, id: LeaseID) -> None:
        """End a lease. Its resources are the collector's if nothing else holds them. Raises `NotFoundError`."""
        ...

    async def list(self) -> list[Lease]:
        """All leases, oldest first."""
        ...

    async def add(self, id: LeaseID, resource: Resource) -> None:
        """Hold one more resource; idempotent; the resource need not exist yet. Raises `NotFoundError` for the lease."""
        ...

    async def remove(self, id: LeaseID, resource: Resource) -> None:
        """Let go of a resource; idempotent. Raises `NotFoundError` for the lease."""
        ...

    async def resources(self, id: LeaseID) -> "list[Resource]":
        """What a lease holds directly, ordered by kind and ID. Raises `NotFoundError`."""
        ...
