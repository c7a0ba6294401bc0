"""Labels that Lading reads or writes. They are containerd's own, so that either can take over the other's store."""

from collections.abc import Mapping
from typing import Final

from lading.errors import InvalidArgumentError

GC_ROOT: Final = "containerd.io/gc.root"
"""On content or a snapshot: keep it, whatever refers to it."""
GC_REF_CONTENT: Final = "containerd.io/gc.ref.content"
"""Prefix (``.suffix`` or ``/suffix`` may follow): the labelled thing keeps the blob whose digest is the value."""
LAYER_BLOB: Final = f"{GC_REF_CONTENT}.layer"
"""On the snapshot of a layer: the blob from which its contents can be made again, and which it therefore keeps."""
GC_REF_SNAPSHOT: Final = "containerd.io/gc.ref.snapshot."
"""Prefix, followed by a snapshotter's name (and ``/suffix``): keeps the snapshot whose name is the value."""
GC_EXPIRE: Final = "containerd.io/gc.expire"
"""On an image or a lease: RFC 3339 time after which it is no root."""
DISTRIBUTION_SOURCE: Final = "containerd.io/distribution.source."
"""Prefix, followed by a registry host; the value lists the repositories, comma-separated, that hold the blob."""
UNCOMPRESSED: Final = "containerd.io/uncompressed"
"""On a compressed layer blob: its diff ID, verified."""
RECIPE: Final = "lading.recipe"
"""On a layer blob: how its bytes can be made again, as JSON (`lading.transfer.restoring`)."""
LAYER_SOURCE: Final = "lading.layer"
"""On the snapshot of a layer: the blob that it was unpacked from. It keeps nothing."""
PARENT: Final = "org.mobyproject.image.parent"
"""On an image record: the target that the image was committed from. It keeps nothing."""
SNAPSHOT_REF: Final = "containerd.io/snapshot.ref"
"""On prepare: the name (chain ID) under which the snapshot will be committed."""

LIMIT: Final = 4096
"""Bytes of a label's key and value together."""


def check(labels: Mapping[str, str | None]) -> None:
    """Raise `InvalidArgumentError` for a label without a key or over `LIMIT`."""
    for key, value in labels.items():
        if not key:
            raise InvalidArgumentError("a label has an empty key")
        length = len(key.encode()) + len((value or "").encode())
        if length > LIMIT:
            raise InvalidArgumentError(
                f"label {key[:64]!r} has {length} bytes",
                hint=f"key and value together have at most {LIMIT} bytes",
            )


def merge(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """``labels`` with ``changes`` applied: ``None`` removes."""
    merged = {**labels, **changes}
    return {key: value for key, value in merged.items() if value is not None}
