"""Manifests as they come over the wire: which type they are, and whether they are what was asked for."""

from typing import Any, Final

import msgspec

from lading.core.remotes import Document
from lading.errors import DataLossError, InvalidArgumentError
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.document import MANIFEST_LIMIT, decode
from lading.remotes.connection import Response
from lading.remotes.errors import RemoteDataError

_TYPES: Final = (
    mediatypes.OCI_INDEX,
    mediatypes.DOCKER_INDEX,
    mediatypes.OCI_MANIFEST,
    mediatypes.DOCKER_MANIFEST,
    "*/*",
)
ACCEPT: Final = ", ".join(_TYPES)
"""What manifests are asked for as."""
_VAGUE: Final = frozenset({"", "application/json", "application/octet-stream", "text/plain", "text/html"})


class _Peek(msgspec.Struct, rename="camel"):
    media_type: str = ""
    manifests: Any = None
    layers: Any = None
    config: Any = None


def read_document(response: Response) -> Document:
    """Blocking: a manifest and its descriptor, by its bytes; a ``Docker-Content-Digest`` must agree.

    Raises:
        RemoteDataError: The digest that the registry announced is not that of the bytes.

    """
    body = response.read(MANIFEST_LIMIT)
    announced = response.head.get("docker-content-digest")
    digest = Digest.of(body)
    if announced:
        try:
            digest = Digest(announced)
        except InvalidArgumentError as exc:
            raise RemoteDataError(f"it announced an {exc.message}") from exc
        if not digest.matches(body):
            raise RemoteDataError(f"it sent other bytes than {digest}, which it announced", subject=digest)
    return Document(
        descriptor=Descriptor(
            media_type=media_type_of(response.head.get("content-type"), body), digest=digest, size=len(body)
        ),
        body=body,
    )


def media_type_of(content_type: str, body: bytes) -> str:
    """What the registry says it is; if it says nothing of use, what the document says; else what it looks like."""
    said = content_type.partition(";")[0].strip().lower()
    if said not in _VAGUE:
        return said
    peek = decode(body, _Peek, what="manifest", limit=MANIFEST_LIMIT)
    if peek.media_type:
        return peek.media_type
    return mediatypes.OCI_INDEX if peek.manifests is not None else mediatypes.OCI_MANIFEST


def referrers_tag(digest: Digest) -> str:
    """The tag under which a registry without the referrers API lists them (distribution-spec, "Referrers Tag Schema")."""
    return f"{digest.algorithm}-{digest.hex[:64]}"


def verified(body: bytes, descriptor: Descriptor, host: str) -> None:
    """Raise `DataLossError` unless the bytes are what the descriptor says."""
    if len(body) != descriptor.size:
        raise DataLossError(f"{host} sent {len(body)} bytes for {descriptor.digest}, not {descriptor.size}")
    if not descriptor.digest.matches(body):
        raise DataLossError(f"{host} sent other bytes than {descriptor.digest}")
