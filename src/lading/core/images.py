"""Images: names that point to targets.

An *image* record maps a name to the descriptor of an index or a manifest, its *target*. Names are free-form here;
for the Engine API a name is a normalised reference (``docker.io/library/alpine:latest``), a ``name@digest``, or
``moby-dangling@<digest>`` for a target that lost its name. The target's blobs are kept as long as the record is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from lading.core.leases import LeaseID
from lading.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image record; times are UTC."""

    name: str
    target: Descriptor
    created_at: datetime
    updated_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class Store(Protocol):
    """The image records of one namespace. Every call is one transaction, durable when it returns."""

    async def get(self, name: str) -> Image:
        """The record of exactly this name. Raises `NotFoundError`."""
        ...

    async def list(self) -> list[Image]:
        """All records, in order of name."""
        ...

    async def by_target(self, digest_prefix: str) -> "list[Image]":
        """Records whose target digest begins with ``digest_prefix`` (``sha256:…`` or bare hex), ordered by name."""
        ...

    async def create(
        self,
        name: str,
        target: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        lease: LeaseID | None = None,
    ) -> Image:
        """Create a record. Raises `AlreadyExistsError` if the name is taken."""
        ...

    async def put(
        self,
        name: str,
        target: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        displaced: str | None = None,
    ) -> Image | None:
        """Point ``name`` to ``target``, creating it if need be; returns what it replaced, if anything.

        One compare-and-swap row update: there is no moment without the name. If the old target differs and no other
        name points to it, a record named ``displaced`` (when given) is created for it in the same transaction.
        """
        ...

    async def update(self, name: str, *, labels: Mapping[str, str | None]) -> Image:
        """Set or (with ``None``) remove labels. Raises `NotFoundError`."""
        ...

    async def delete(self, name: str, *, target: Descriptor | None = None) -> Image:
        """Delete a record and return it. Raises `NotFoundError`, also if it no longer points to ``target``."""
        ...
