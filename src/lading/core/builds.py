"""Builds: what is remembered of them after they are over.

A *build record* is named by the client's ref. It names blobs (the log, provenance) that a lease of its own holds; deleting the
record lets them go. Records are kept for a while and then deleted, unless they are *pinned*.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from lading.oci.descriptor import Descriptor


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One export as it was asked for."""

    type: str
    attributes: dict[str, str] = {}


class PlatformResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was made for one platform, and the attestations about it."""

    results: tuple[Descriptor, ...] = ()
    attestations: tuple[Descriptor, ...] = ()


class BuildRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A build; times are nanoseconds since the epoch, 0 for not yet."""

    ref: str
    frontend: str = ""
    options: dict[str, str] = {}
    outputs: tuple[Output, ...] = ()
    created: int
    completed: int = 0
    error: bytes = b""
    """A marshalled ``google.rpc.Status``; empty for success."""
    failure: Descriptor | None = None
    """The same as a blob: clients take the place in the source from there, and put it into what they export."""
    log: Descriptor | None = None
    response: dict[str, str] = {}
    platforms: dict[str, PlatformResult] = {}
    """By platform ID; empty for a build of one."""
    pinned: bool = False
    cached_steps: int = 0
    total_steps: int = 0
    completed_steps: int = 0
    warnings: int = 0
    generation: int = 0


class Store(Protocol):
    """The build records of one namespace. Every call is one transaction, durable when it returns."""

    async def get(self, ref: str) -> BuildRecord:
        """The record of a build. Raises `NotFoundError`."""
        ...

    async def list(self) -> Sequence[BuildRecord]:
        """All records, newest first."""
        ...

    async def put(self, record: BuildRecord) -> None:
        """Insert or replace a record."""
        ...

    async def delete(self, ref: str) -> BuildRecord:
        """Delete a record and return it. Raises `NotFoundError`."""
        ...
