"""Statements: what is said about an image: in-toto attestations that came with it, and where it came from."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lading.core import content
from lading.core.facts import Kind, ManifestFacts, TargetFacts
from lading.core.labels import DISTRIBUTION_SOURCE
from lading.errors import DataLossError, NotFoundError
from lading.oci import manifest as oci_manifest
from lading.oci import reference
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.document import MANIFEST_LIMIT

PREDICATE: Final = "in-toto.io/predicate-type"
"""Annotation on a layer of an attestation manifest: the type of the statement in it."""
BUILD_REF: Final = "moby/build.ref."
"""Label prefix on a target that was built here, followed by the build's reference; the value is JSON."""
_STATEMENT_LIMIT: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One attestation: its blob, the predicate's type (a URI), and the statement itself if it was asked for."""

    descriptor: Descriptor
    predicate: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Where an image came from: repositories that it was pulled from or pushed to, and builds with their RFC 3339 time."""

    pulled: Sequence[str]
    built: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.pulled or self.built)


def identity_of(labels: Mapping[str, str]) -> Identity:
    """What the labels of a target or manifest say of its origin. Nothing that came with the image can say it."""
    pulled: list[str] = []
    built: dict[str, str] = {}
    for key, value in sorted(labels.items()):
        if key.startswith(BUILD_REF):
            built[key.removeprefix(BUILD_REF)] = _created_at(value)
        elif key.startswith(DISTRIBUTION_SOURCE):
            host = key.removeprefix(DISTRIBUTION_SOURCE)
            pulled += [reference.parse(f"{host}/{path}").name for path in value.split(",") if path]
    return Identity(pulled=list(dict.fromkeys(pulled)), built=built)


def _created_at(value: str) -> str:
    try:
        found = json.loads(value)
    except ValueError:
        return ""
    return str(found.get("createdAt") or "") if isinstance(found, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def attestation_for(facts: TargetFacts, manifest: ManifestFacts) -> ManifestFacts | None:
    """The attestation manifest about ``manifest``, if the image has one and it is here."""
    return next(
        (
            each
            for each in facts.manifests
            if each.kind is Kind.ATTESTATION and each.document and each.attests == manifest.descriptor.digest
        ),
        None,
    )


async def read(
    store: content.Store, attestation: ManifestFacts, *, types: Collection[str], bodies: bool
) -> list[Statement]:
    """The statements of an attestation manifest, of these predicate types if any are named.

    Raises `NotFoundError` for a statement that is asked for and not here; `DataLossError` for one that is no JSON.
    """
    raw = await store.read(attestation.descriptor.digest, limit=MANIFEST_LIMIT)
    document = oci_manifest.parse(raw, attestation.descriptor.media_type)
    found: list[Statement] = []
    for layer in oci_manifest.children(document):
        predicate = layer.annotations.get(PREDICATE, "")
        if predicate and (not types or predicate in types):
            body = await _body(store, layer) if bodies else None
            found.append(Statement(descriptor=layer, predicate=predicate, body=body))
    return found


async def _body(store: content.Store, layer: Descriptor) -> bytes:
    try:
        body = await store.read(layer.digest, limit=_STATEMENT_LIMIT)
    except NotFoundError as exc:
        raise NotFoundError(
            f"attestation statement {layer.digest} is not available locally",
            hint="pull the image again to complete it",
            subject=layer.digest,
        ) from exc
    try:
        json.loads(body)
    except ValueError as exc:
        raise DataLossError(
            f"attestation statement {layer.digest} is not JSON", subject=layer.digest
        ) from exc
    return body


async def identities(store: content.Store, digests: Collection[Digest]) -> Mapping[str, Identity]:
    """Where each of these came from, of those that are here."""
    return {digest: identity_of(info.labels) for digest, info in (await store.infos(digests)).items()}
