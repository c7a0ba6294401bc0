"""Images made of nothing, for tests: layers from names and bytes, configs, manifests and indexes, packed as asked."""

import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lading.oci import mediatypes
from lading.oci.config import History, ImageConfig, RootFS, RunConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import ChainID, DiffID, chain_ids
from lading.oci.document import encode
from lading.oci.manifest import Index, Manifest, descriptor_of
from lading.testing.memory.remotes import MemoryRepository

AMD64: Final = Platform(os="linux", architecture="amd64")
ARM64: Final = Platform(os="linux", architecture="arm64")


def tar(files: Mapping[str, bytes]) -> bytes:
    """An uncompressed tar of regular files, the same for the same input."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class TestLayer:
    """One layer: its blob as it travels and the diff ID of what is inside."""

    __test__ = False

    blob: bytes
    descriptor: Descriptor
    diff_id: DiffID


def layer(files: Mapping[str, bytes], *, media_type: str = mediatypes.OCI_LAYER_GZIP) -> TestLayer:
    """A layer of these files, gzip or plain as its media type says."""
    body = tar(files)
    packed = gzip.compress(body, mtime=0) if media_type.endswith("gzip") else body
    return TestLayer(
        blob=packed, descriptor=descriptor_of(packed, media_type), diff_id=DiffID(DiffID.of(body))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TestImage:
    """One platform's image."""

    __test__ = False

    layers: Sequence[TestLayer]
    config: bytes
    config_descriptor: Descriptor
    body: bytes
    descriptor: Descriptor
    """Of the manifest, with its platform, as an index lists it."""

    @property
    def chain(self) -> list[ChainID]:
        """Chain IDs, bottom first."""
        return chain_ids([one.diff_id for one in self.layers])

    @property
    def blobs(self) -> dict[Descriptor, bytes]:
        """Config and layers."""
        return {self.config_descriptor: self.config, **{one.descriptor: one.blob for one in self.layers}}


def image(
    layers: Sequence[TestLayer],
    *,
    platform: Platform = AMD64,
    diff_ids: Sequence[DiffID] | None = None,
    run: RunConfig | None = None,
) -> TestImage:
    """An image of these layers; ``diff_ids`` replaces the true ones."""
    config = encode(
        ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            created="2024-01-02T03:04:05Z",
            config=run or RunConfig(cmd=("/bin/true",)),
            rootfs=RootFS(
                type="layers",
                diff_ids=tuple(diff_ids if diff_ids is not None else [one.diff_id for one in layers]),
            ),
            history=tuple(History(created_by=f"layer {n}") for n, _ in enumerate(layers)),
        )
    )
    config_descriptor = descriptor_of(config, mediatypes.OCI_CONFIG)
    body = encode(
        Manifest(
            schema_version=2,
            media_type=mediatypes.OCI_MANIFEST,
            config=config_descriptor,
            layers=tuple(one.descriptor for one in layers),
        )
    )
    return TestImage(
        layers=tuple(layers),
        config=config,
        config_descriptor=config_descriptor,
        body=body,
        descriptor=descriptor_of(body, mediatypes.OCI_MANIFEST, platform=platform),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TestIndex:
    """An index over images."""

    __test__ = False

    images: Sequence[TestImage]
    body: bytes
    descriptor: Descriptor


def index(images: Sequence[TestImage]) -> TestIndex:
    """An index that lists these images in order."""
    body = encode(
        Index(
            schema_version=2,
            media_type=mediatypes.OCI_INDEX,
            manifests=tuple(one.descriptor for one in images),
        )
    )
    return TestIndex(images=tuple(images), body=body, descriptor=descriptor_of(body, mediatypes.OCI_INDEX))


def publish(
    repository: MemoryRepository, target: TestImage | TestIndex, tag: str | None = None
) -> Descriptor:
    """Put an image or index with all its content into a registry; the target's descriptor."""
    if isinstance(target, TestIndex):
        for one in target.images:
            publish(repository, one)
        return repository.add_manifest(target.body, mediatypes.OCI_INDEX, tag=tag)
    for descriptor, blob in target.blobs.items():
        repository.add_blob(blob, descriptor.media_type)
    return repository.add_manifest(target.body, mediatypes.OCI_MANIFEST, tag=tag)
