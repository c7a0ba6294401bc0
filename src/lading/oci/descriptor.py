"""Descriptors: what a blob is, how long, and its digest (OCI image-spec, descriptor.md)."""

from typing import Annotated

import msgspec

from lading.oci.digest import Digest

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Bytes."""


class Platform(
    msgspec.Struct,
    frozen=True,
    gc=False,
    rename={"os_version": "os.version", "os_features": "os.features"},
    omit_defaults=True,
):
    """An OCI platform as it stands in a document; see `lading.oci.platform` for normalising and matching.

    It leads to nothing that leads back, and a list of images makes very many, so the cycle collector need not look at it.
    """

    architecture: str = ""
    os: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel", omit_defaults=True):
    """A typed, sized pointer to content. Equal descriptors point to equal bytes."""

    media_type: str
    digest: Digest
    size: Size
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: str | None = None
    platform: Platform | None = None
    artifact_type: str = ""

    def __hash__(self) -> int:
        return hash((self.digest, self.media_type))
