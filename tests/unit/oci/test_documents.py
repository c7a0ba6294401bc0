"""Manifests, indexes and configs from untrusted bytes (hostile-input.md D1 to D14)."""

import json
from typing import Any

import pytest

from lading.errors import InvalidArgumentError, ResourceExhaustedError, UnsupportedError
from lading.oci import config, manifest, mediatypes
from lading.oci import document as document_module
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import ChainID, DiffID, Digest

DIGEST = Digest.of(b"x")


def descriptor(**kwargs: object) -> dict[str, object]:
    return {"mediaType": mediatypes.OCI_LAYER_GZIP, "digest": str(DIGEST), "size": 1, **kwargs}


def image(**kwargs: object) -> dict[str, object]:
    base = {
        "schemaVersion": 2,
        "config": descriptor(mediaType=mediatypes.OCI_CONFIG),
        "layers": [descriptor()],
    }
    return base | kwargs


def encode(tree: object) -> bytes:
    return json.dumps(tree).encode()


def parse_image(tree: object) -> manifest.Manifest | manifest.Index:
    return manifest.parse(encode(tree), mediatypes.OCI_MANIFEST)


def test_a_manifest_is_read() -> None:
    document = parse_image(image(annotations={"a": "b"}))
    assert isinstance(document, manifest.Manifest)
    assert document.is_image
    assert [d.digest for d in manifest.children(document)] == [DIGEST, DIGEST]
    assert isinstance(document.layers[0].digest, Digest)
    assert manifest.parse(document_module.encode(document), mediatypes.OCI_MANIFEST) == document


def test_an_index_is_read_and_attestations_are_told_apart() -> None:
    entry = descriptor(
        mediaType=mediatypes.OCI_MANIFEST,
        platform={"os": "linux", "architecture": "arm64", "os.version": "1"},
    )
    attestation = descriptor(annotations={"vnd.docker.reference.type": "attestation-manifest"})
    document = manifest.parse(
        encode({"schemaVersion": 2, "manifests": [entry, attestation]}), mediatypes.OCI_INDEX
    )
    assert isinstance(document, manifest.Index)
    assert document.manifests[0].platform == Platform(os="linux", architecture="arm64", os_version="1")
    assert [manifest.is_attestation(d) for d in manifest.children(document)] == [False, True]


@pytest.mark.parametrize(
    "tree",
    [
        image(manifests=[]),
        image(mediaType=mediatypes.OCI_INDEX),
        image(schemaVersion=3),
        image(schemaVersion="2"),
        image(layers=[descriptor(digest=1)]),
        image(layers=[descriptor(size=-1)]),
        image(layers=[descriptor(size=1.0)]),
        image(layers=[descriptor(size=True)]),
        image(layers=[descriptor(size=2**63)]),
        image(layers=[descriptor(digest="sha256:" + "A" * 64)]),
        image(layers=[descriptor(digest=f"{DIGEST}\n")]),
        image(layers=[descriptor(digest="../../etc/passwd")]),
        image(layers=None),
        image(annotations={"a": 1}),
        {"schemaVersion": 2},
        [],
        None,
    ],
)
def test_malformed_and_ambiguous_manifests_are_refused(tree: object) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_image(tree)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"schemaVersion":2,"schemaVersion":2}',
        b'{"schemaVersion":2,"SchemaVersion":1}',
        b'{"schemaVersion":NaN}',
        b'{"schemaVersion":-Infinity}',
        b'{"schemaVersion":' + b"1" * 5000 + b"}",
        b'{"schemaVersion":2,"mediaType":"\\ud800"}',
        b'{"\\udfff":2}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b"",
        b"{",
        b'{"schemaVersion":2}{}',
    ],
)
def test_ambiguous_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        manifest.parse(raw, mediatypes.OCI_MANIFEST)


def test_brackets_in_text_are_not_nesting() -> None:
    document = parse_image(image(annotations={"a": '[{"' * 200, "b": "\\" * 5}))
    assert isinstance(document, manifest.Manifest)


def test_large_documents_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(ResourceExhaustedError):
        manifest.parse(b" " * (4 * 1024 * 1024 + 1), mediatypes.OCI_MANIFEST)


def test_an_index_has_a_bounded_number_of_entries() -> None:
    entry = {"mediaType": "a", "digest": str(DIGEST), "size": 0}
    with pytest.raises(InvalidArgumentError, match="entries"):
        manifest.parse(encode({"schemaVersion": 2, "manifests": [entry] * 10_001}), mediatypes.OCI_INDEX)


@pytest.mark.parametrize(
    ("tree", "media_type"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, mediatypes.DOCKER_SCHEMA1_SIGNED),
        ({"schemaVersion": 1}, mediatypes.DOCKER_MANIFEST),
        (image(), "application/json"),
    ],
)
def test_other_types_are_unsupported(tree: object, media_type: str) -> None:
    with pytest.raises(UnsupportedError):
        manifest.parse(encode(tree), media_type)


def test_docker_types_are_equals() -> None:
    document = manifest.parse(encode(image(mediaType=mediatypes.DOCKER_MANIFEST)), mediatypes.DOCKER_MANIFEST)
    assert document.media_type == mediatypes.DOCKER_MANIFEST
    assert mediatypes.is_manifest(mediatypes.DOCKER_MANIFEST)
    assert mediatypes.is_layer(mediatypes.DOCKER_LAYER_GZIP)


def test_an_artifact_is_not_an_image() -> None:
    document = parse_image(image(config=descriptor(mediaType=mediatypes.OCI_EMPTY)))
    assert isinstance(document, manifest.Manifest)
    assert not document.is_image


def test_descriptor_of_new_bytes() -> None:
    made = manifest.descriptor_of(b"abc", mediatypes.OCI_CONFIG)
    assert made == Descriptor(media_type=mediatypes.OCI_CONFIG, digest=Digest.of(b"abc"), size=3)
    assert hash(made) == hash(manifest.descriptor_of(b"abc", mediatypes.OCI_CONFIG))


def image_config(**kwargs: object) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(DIGEST)]},
    } | kwargs


def test_a_config_is_read_with_gos_nulls() -> None:
    tree = image_config(
        variant="v2",
        config={
            "Env": None,
            "Cmd": ["sh"],
            "ExposedPorts": {"80/tcp": {}},
            "Healthcheck": {"Test": ["NONE"], "Interval": 5},
            "Unknown": 1,
        },
        history=[{"created_by": "x", "empty_layer": True}],
    )
    parsed = config.parse(encode(tree), layers=1)
    assert parsed.run.cmd == ("sh",)
    assert parsed.run.healthcheck is not None
    assert parsed.run.healthcheck.interval == 5
    assert parsed.platform == Platform(os="linux", architecture="amd64", variant="v2")
    assert parsed.chain == [ChainID(DIGEST)]
    assert isinstance(parsed.rootfs.diff_ids[0], DiffID)
    assert config.parse(encode(image_config())).run == config.RunConfig()


@pytest.mark.parametrize(
    "tree",
    [
        image_config(rootfs={"type": "layers+base", "diff_ids": []}),
        image_config(rootfs={"type": "layers", "diff_ids": []}),
        image_config(rootfs=None),
        image_config(os=1),
        {"architecture": "amd64", "os": "linux"},
    ],
)
def test_a_config_that_does_not_fit_is_refused(tree: object) -> None:
    with pytest.raises(InvalidArgumentError):
        config.parse(encode(tree), layers=1)
