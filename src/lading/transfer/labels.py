"""The labels that a transfer leaves on blobs: what keeps what, and where it came from.

Names as containerd gives them (``core/images``, handlers; reference: containerd metadata and GC), so that either can take
over the other's store. Nothing in an image can choose a label (hostile-input.md D16).
"""

from typing import Final

from lading.core import content
from lading.core.labels import DISTRIBUTION_SOURCE, GC_REF_CONTENT
from lading.errors import NotFoundError
from lading.kit.tasks import KeyedLock
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.manifest import Index, Manifest, children
from lading.oci.reference import Reference

_LABEL_LIMIT: Final = 4096


def child_labels(document: Manifest | Index) -> dict[str, str]:
    """``gc.ref.content`` labels that make a manifest or index keep everything it names, also what arrives later."""
    counts: dict[str, int] = {}
    labels: dict[str, str] = {}
    for child in children(document):
        kind = _child_kind(child)
        if kind == "config":
            labels[f"{GC_REF_CONTENT}.config"] = child.digest
            continue
        prefix = f"{GC_REF_CONTENT}.{kind}." if kind else f"{GC_REF_CONTENT}."
        labels[f"{prefix}{counts.get(kind, 0)}"] = child.digest
        counts[kind] = counts.get(kind, 0) + 1
    return labels


def _child_kind(descriptor: Descriptor) -> str:
    media_type = descriptor.media_type
    if media_type in mediatypes.CONFIGS:
        return "config"
    if mediatypes.is_index(media_type) or mediatypes.is_manifest(media_type):
        return "m"
    return "l" if mediatypes.is_layer(media_type) else ""


def source_key(reference: Reference) -> str:
    """The label key that lists repositories on the host of ``reference``."""
    return DISTRIBUTION_SOURCE + reference.domain


def merged_source(key: str, present: str, path: str) -> str:
    """A list of repositories with ``path`` added, oldest dropped where the label would grow over its limit."""
    paths = [p for p in present.split(",") if p and p != path] + [path]
    while len(key) + len(",".join(paths)) > _LABEL_LIMIT and len(paths) > 1:
        del paths[0]
    return ",".join(paths)


def repositories(info: content.Info) -> list[Reference]:
    """The repositories that a blob's labels name, on every host."""
    return [
        Reference(domain=key.removeprefix(DISTRIBUTION_SOURCE), path=path)
        for key, value in info.labels.items()
        if key.startswith(DISTRIBUTION_SOURCE)
        for path in value.split(",")
        if path
    ]


class Sources:
    """Keeps the ``distribution.source`` labels: in which repositories a blob has been seen."""

    def __init__(self, store: content.Store) -> None:
        self._content = store
        self._locks = KeyedLock()

    async def add(self, digest: Digest, repository: Reference) -> None:
        """Record that ``repository`` holds the blob; nothing happens if the blob is gone. A power cut may undo it."""
        key = source_key(repository)
        async with self._locks.hold(digest):
            try:
                present = (await self._content.info(digest)).labels.get(key, "")
                if repository.path not in present.split(","):
                    found = merged_source(key, present, repository.path)
                    await self._content.update(digest, {key: found}, durable=False)
            except NotFoundError:
                return

    async def list(self, digest: Digest, repository: Reference) -> "list[str]":
        """Repository paths on the host of ``repository`` that hold the blob, newest first; empty if unknown."""
        try:
            labels = (await self._content.info(digest)).labels
        except NotFoundError:
            return []
        return [p for p in reversed(labels.get(source_key(repository), "").split(",")) if p]
