"""Which manifests of an index a pull takes."""

from collections.abc import Sequence
from typing import Literal

from lading.errors import NotFoundError
from lading.oci import platform
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.manifest import ANNOTATION_REFERENCE_DIGEST, is_attestation
from lading.transfer.documents import ManifestNode, is_document

Platforms = Sequence[Platform] | Literal["all"] | None
"""Which platforms of an image: those named, all, or with ``None`` the one that fits this host best."""


class NoMatchingPlatformError(NotFoundError):
    """The image exists, but not for the platform that was asked for."""

    code = "no-matching-platform"


def select(offers: Sequence[Descriptor], platforms: Platforms, host: Platform) -> list[Descriptor]:
    """The manifests to pull, each once, in the order in which they were asked for, and the attestations about them.

    Raises `NoMatchingPlatformError`.
    """
    images = [offer for offer in offers if not is_attestation(offer)]
    return _with_attestations(_select(images, platforms, host), offers)


def best(host: Platform, nodes: Sequence[ManifestNode]) -> ManifestNode | None:
    """The manifest to unpack."""
    return platform.best(host, nodes, key=_node_platform)


def _select(offers: Sequence[Descriptor], platforms: Platforms, host: Platform) -> list[Descriptor]:
    documents = [offer for offer in offers if is_document(offer)]
    if platforms == "all":
        return documents
    chosen: list[Descriptor] = []
    for wanted in platforms or [host]:
        found = platform.best(wanted, documents, key=_descriptor_platform)
        if found is None:
            unnamed = [offer for offer in documents if offer.platform is None]
            found = unnamed[0] if unnamed else None
        if found is None:
            raise NoMatchingPlatformError(
                f"no matching manifest for {platform.formatted(wanted)} in the manifest list entries",
                hint=_offered(documents),
            )
        if found not in chosen:
            chosen.append(found)
    return chosen


def _descriptor_platform(descriptor: Descriptor) -> Platform | None:
    return descriptor.platform


def _node_platform(node: ManifestNode) -> Platform | None:
    return None if is_attestation(node.descriptor) else node.descriptor.platform


def _with_attestations(chosen: Sequence[Descriptor], offers: Sequence[Descriptor]) -> list[Descriptor]:
    subjects = {descriptor.digest for descriptor in chosen}
    about = [
        offer
        for offer in offers
        if is_attestation(offer) and offer.annotations.get(ANNOTATION_REFERENCE_DIGEST) in subjects
    ]
    return [*chosen, *about]


def _offered(offers: Sequence[Descriptor]) -> str:
    found = [platform.formatted(offer.platform) for offer in offers if offer.platform is not None]
    return f"the image is for {', '.join(dict.fromkeys(found))}" if found else ""
