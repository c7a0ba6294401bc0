"""Images that are wrong on purpose, in a registry that does not look at what it serves; and their honest twins."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lading.oci import mediatypes
from lading.testing.registry import FakeRegistry
from support.images import GOARCH, compressed

Document = dict[str, Any]


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config_of(archives: Sequence[bytes], **run: object) -> Document:
    """The config of an image of these layers."""
    return {
        "architecture": GOARCH,
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], **run},
        "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in archives]},
    }


class Shelf:
    """A repository of a registry; images are put there in parts that may contradict each other."""

    def __init__(self, registry: FakeRegistry, path: str) -> None:
        self.registry = registry
        self.path = path
        self.name = f"{registry.host}/{path}"

    def blob(self, data: bytes, kind: str = mediatypes.OCI_LAYER) -> Document:
        found = self.registry.add_blob(self.path, data, kind)
        return {"mediaType": kind, "digest": str(found.digest), "size": found.size}

    def manifest(
        self,
        archives: Sequence[bytes],
        *,
        config: Mapping[str, Any] | bytes | None = None,
        packed: Sequence[bytes] | None = None,
        kind: str = mediatypes.OCI_LAYER_GZIP,
        **run: object,
    ) -> Document:
        """An image's manifest, its blobs already there; change it as you like before `put`."""
        if config is None:
            config = config_of(archives, **run)
        body = config if isinstance(config, bytes) else json.dumps(config).encode()
        blobs = packed if packed is not None else [compressed(one, "gzip") for one in archives]
        return {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": self.blob(body, mediatypes.OCI_CONFIG),
            "layers": [self.blob(each, kind) for each in blobs],
        }

    def put(
        self, tag: str, document: Document | bytes, kind: str = mediatypes.OCI_MANIFEST
    ) -> tuple[str, Document]:
        """Tag a document, unchecked; its full reference and its descriptor."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        found = self.registry.add_manifest(self.path, body, kind, tag=tag)
        return f"{self.name}:{tag}", {"mediaType": kind, "digest": str(found.digest), "size": found.size}
