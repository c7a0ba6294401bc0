"""Media types of OCI image-spec v1.1 and Docker image manifest schema 2, and what each one is."""

from collections.abc import Iterable
from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_LAYER_NONDIST: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_LAYER_NONDIST_GZIP: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
OCI_LAYER_NONDIST_ZSTD: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"

DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_LAYER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_LAYER_FOREIGN_GZIP: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

IN_TOTO: Final = "application/vnd.in-toto+json"

INDEXES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
SCHEMA1: Final = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})
CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
FOREIGN_LAYERS: Final = frozenset(
    {
        OCI_LAYER_NONDIST,
        OCI_LAYER_NONDIST_GZIP,
        OCI_LAYER_NONDIST_ZSTD,
        DOCKER_LAYER_FOREIGN,
        DOCKER_LAYER_FOREIGN_GZIP,
    }
)
"""Layers whose content a registry may refuse to hold ("foreign" or "non-distributable")."""

LAYER_COMPRESSION: Final = {
    OCI_LAYER: "",
    OCI_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    OCI_LAYER_NONDIST: "",
    OCI_LAYER_NONDIST_GZIP: "gzip",
    OCI_LAYER_NONDIST_ZSTD: "zstd",
    DOCKER_LAYER: "",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_LAYER_FOREIGN: "",
    DOCKER_LAYER_FOREIGN_GZIP: "gzip",
}
"""Layer media type to its declared compression. What the bytes say (their magic) decides; this only declares."""


_BY_COMPRESSION: Final = {
    False: {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD},
    True: {"": DOCKER_LAYER, "gzip": DOCKER_LAYER_GZIP},
}


def one_family(layers: Iterable[str]) -> tuple[bool, list[str]]:
    """The types of a manifest's layers, all of them Docker's or, where Docker has none for one (zstd), all of them OCI's.

    Whether they are Docker's, and the types. Foreign layers and what is no layer keep theirs.
    """
    found = list(layers)
    docker = not any(LAYER_COMPRESSION.get(each) == "zstd" for each in found)
    same = [
        each
        if each in FOREIGN_LAYERS or each not in LAYER_COMPRESSION
        else _BY_COMPRESSION[docker][LAYER_COMPRESSION[each]]
        for each in found
    ]
    return docker, same


def is_index(media_type: str) -> bool:
    """Whether the type is an index or manifest list."""
    return media_type in INDEXES


def is_manifest(media_type: str) -> bool:
    """Whether the type is an image manifest."""
    return media_type in MANIFESTS


def is_layer(media_type: str) -> bool:
    """Whether the type is a file-system layer that can be unpacked."""
    return media_type in LAYER_COMPRESSION


def is_config(media_type: str) -> bool:
    """Whether the type is an image config: what the classic store's images are."""
    return media_type in CONFIGS
