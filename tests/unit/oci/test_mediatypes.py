"""Media types of layers in one manifest."""

import pytest

from lading.oci import mediatypes as types


@pytest.mark.parametrize(
    ("layers", "docker", "same"),
    [
        ([], True, []),
        ([types.OCI_LAYER_GZIP, types.DOCKER_LAYER_GZIP], True, [types.DOCKER_LAYER_GZIP] * 2),
        ([types.OCI_LAYER, types.OCI_LAYER_GZIP], True, [types.DOCKER_LAYER, types.DOCKER_LAYER_GZIP]),
        (
            [types.DOCKER_LAYER_GZIP, types.OCI_LAYER_ZSTD],
            False,
            [types.OCI_LAYER_GZIP, types.OCI_LAYER_ZSTD],
        ),
        ([types.DOCKER_LAYER_ZSTD], False, [types.OCI_LAYER_ZSTD]),
        ([types.DOCKER_LAYER_FOREIGN_GZIP, "x/y"], True, [types.DOCKER_LAYER_FOREIGN_GZIP, "x/y"]),
    ],
)
def test_the_layers_of_a_manifest_are_dockers_or_ocis(
    layers: list[str], docker: bool, same: list[str]
) -> None:
    assert types.one_family(layers) == (docker, same)
