"""Image configs that a frontend makes, which may be anybody's program."""

import json

import pytest

from lading.builder.exporters import configs
from lading.errors import InvalidArgumentError
from lading.oci.descriptor import Platform

AMD64 = Platform(os="linux", architecture="amd64")


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b"1",
        b"[" * 100_000,
        b'{"history": "x"}',
        b'{"history": [1]}',
        b'{"history": [{"created": 1}]}',
        b'{"history": [{"empty_layer": "yes"}]}',
        b'{"os": 1}',
        b'{"x": NaN}',
        b'{"architecture": []}',
        b'{"created": {}}',
        b'{"config": []}',
    ],
)
def test_what_is_no_config_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="image config"):
        configs.make(raw, [], AMD64, epoch=1)


def test_what_is_odd_stays_or_is_filled_in() -> None:
    raw = (
        b'{"os": "linux", "config": {"Labels": {"a": "\\ud800", "A": ""}}, "history": [{"created": "soon"}]}'
    )
    made = configs.make(raw, [], AMD64, epoch=1)
    document = json.loads(made.body)
    assert made.platform == AMD64
    assert document["config"]["Labels"] == {"a": "?", "A": ""}
    assert document["history"][0]["empty_layer"] is True
