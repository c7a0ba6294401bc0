"""Images: names that point to targets.

An *image* record maps a name to the descriptor of an index or a manifest, its *target*. Names are free-form here;
for the Engine API a name is a normalised reference (``docker.io/library/alpine:latest``), a ``name@digest``, or
``moby-dangling@<digest>`` for a target that lost its name. The target's blobs are kept as long as the record is.

**Two stores.** Docker keeps images in one of two forms. In the *containerd* store the target is what was pulled, an index or a
manifest, with every platform below it. In the *classic* store it is the config of one platform, whose layers are kept unpacked
only. Whoever stores an image gives it a name through `Naming`, which turns what was stored into the store's own form;
everything above asks records for targets and `lading.core.facts` for what a target is, and so serves either store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from lading.core.leases import LeaseID
from lading.oci.descriptor import Descriptor
from lading.oci.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image record; times are UTC."""

    name: str
    target: Descriptor
    created_at: datetime
    updated_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointed:
    """A name that was pointed somewhere: the record, and the one that it replaced, if any."""

    image: Image
    replaced: Image | None

    @property
    def moved(self) -> bool:
        """Whether the name is new or meant something else before."""
        return self.replaced is None or self.replaced.target.digest != self.image.target.digest


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
    ) -> Pointed:
        """Point ``name`` to ``target``, creating it if need be; the record, and what it replaced, if anything.

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


class Naming(Protocol):
    """Gives names to images, in the form in which the store keeps them."""

    async def point(
        self,
        name: str | None,
        target: Descriptor,
        *,
        manifest: Descriptor | None = None,
        source: Reference | None = None,
        labels: Mapping[str, str] | None = None,
        keep_displaced: bool = True,
    ) -> Pointed:
        """Make ``name`` mean an image that is stored and unpacked, or one that has a name already.

        An old target without another name stays, dangling, if ``keep_displaced``; the new one is dangling no more. Idempotent.

        Args:
            name: The record's name; ``None`` gives an image that has no other the name of a dangling one.
            target: An index or manifest that was stored, or the target of a record.
            manifest: Of an index that was stored, the manifest that was unpacked; a store of single platforms keeps that.
            source: The repository that it was pulled from, which then knows it by its digest as well.
            labels: For the record.
            keep_displaced: Whether an old target without another name stays as a dangling image.

        Raises:
            InvalidArgumentError: The store cannot keep such an image.

        """
        ...
