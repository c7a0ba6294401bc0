"""Manifests and indexes, as views over bytes that are kept as received.

OCI image-spec manifest.md and image-index.md; Docker image manifest schema 2. Schema 1 is refused with an explanation.
"""

from typing import Any, Final

import msgspec
from typing_extensions import Buffer

from lading.errors import InvalidArgumentError, UnsupportedError
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import MANIFEST_LIMIT, convert, read

INDEX_ENTRIES_LIMIT: Final = 10_000
ATTESTATION_TYPE: Final = "attestation-manifest"
ANNOTATION_REFERENCE_TYPE: Final = "vnd.docker.reference.type"
ANNOTATION_REFERENCE_DIGEST: Final = "vnd.docker.reference.digest"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An image manifest: one platform's config and layers, bottom layer first."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}

    @property
    def is_image(self) -> bool:
        """Whether the config is an image config, so that layers may be unpacked; otherwise it is an artifact."""
        return self.config.media_type in mediatypes.CONFIGS


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An image index or manifest list."""

    schema_version: int
    manifests: tuple[Descriptor, ...]
    media_type: str = ""
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class _Envelope(msgspec.Struct, rename="camel"):
    """The fields by which documents are told apart."""

    schema_version: int
    media_type: str = ""
    manifests: Any = msgspec.UNSET
    layers: Any = msgspec.UNSET
    config: Any = msgspec.UNSET
    fs_layers: Any = msgspec.UNSET


def parse(data: Buffer, media_type: str, *, what: str = "manifest") -> Manifest | Index:
    """Read a document that was announced as ``media_type``.

    Raises:
        InvalidArgumentError: It is malformed, is both a manifest and an index, or says that it is of another type
            (hostile-input.md D1: one digest has one meaning).
        UnsupportedError: It is Docker schema 1, or of a type that is neither a manifest nor an index.
        ResourceExhaustedError: It is over 4 MiB or has over 10,000 entries.

    """
    tree = read(data, what=what, limit=MANIFEST_LIMIT)
    envelope = convert(tree, _Envelope, what=what)
    if (
        media_type in mediatypes.SCHEMA1
        or envelope.schema_version == 1
        or envelope.fs_layers is not msgspec.UNSET
    ):
        raise UnsupportedError(
            f"{what} is a Docker schema 1 manifest, which is obsolete and cannot be verified",
            hint="push the image again with a current client to convert it",
        )
    if envelope.media_type and envelope.media_type != media_type:
        raise InvalidArgumentError(
            f"{what} says that it is {envelope.media_type}, but was announced as {media_type}"
        )
    if envelope.schema_version != 2:
        raise InvalidArgumentError(f"{what} has schemaVersion {envelope.schema_version}, not 2")
    has_index = envelope.manifests is not msgspec.UNSET
    has_image = envelope.layers is not msgspec.UNSET or envelope.config is not msgspec.UNSET
    if has_index and has_image:
        raise InvalidArgumentError(f"{what} is ambiguous: it has both manifests and layers")
    if mediatypes.is_index(media_type):
        return _index(tree, what)
    if mediatypes.is_manifest(media_type):
        return convert(tree, Manifest, what=what)
    raise UnsupportedError(
        f"{what} has media type {media_type!r}, which is neither a manifest nor an index", subject=media_type
    )


def _index(tree: object, what: str) -> Index:
    index = convert(tree, Index, what=what)
    if len(index.manifests) > INDEX_ENTRIES_LIMIT:
        raise InvalidArgumentError(
            f"{what} has {len(index.manifests)} entries, more than {INDEX_ENTRIES_LIMIT}"
        )
    return index


def media_type_of(data: Buffer) -> str:
    """The media type of a document that came without one: what it says, else what its fields make it (OCI).

    Raises `InvalidArgumentError` for what is no document.
    """
    envelope = convert(read(data, what="manifest", limit=MANIFEST_LIMIT), _Envelope, what="manifest")
    if envelope.media_type:
        return envelope.media_type
    return mediatypes.OCI_INDEX if envelope.manifests is not msgspec.UNSET else mediatypes.OCI_MANIFEST


def children(document: Manifest | Index) -> tuple[Descriptor, ...]:
    """What a document refers to, in the order in which containerd labels it: manifests, or config and then layers."""
    return document.manifests if isinstance(document, Index) else (document.config, *document.layers)


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index entry is an attestation manifest for another entry (BuildKit's convention)."""
    return descriptor.annotations.get(ANNOTATION_REFERENCE_TYPE) == ATTESTATION_TYPE


def attested(descriptor: Descriptor) -> str:
    """Digest of the manifest that an attestation manifest is about; empty for other entries."""
    return descriptor.annotations.get(ANNOTATION_REFERENCE_DIGEST, "") if is_attestation(descriptor) else ""


def descriptor_of(data: bytes, media_type: str, *, platform: Platform | None = None) -> Descriptor:
    """The descriptor of a document that this process made."""
    return Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data), platform=platform)
