"""The config of a shared build cache, ``application/vnd.buildkit.cacheconfig.v0`` (BuildKit, cache/remotecache/v1/spec.go).

*Layers* are blobs with the layer below each; *records* are keys: a name of what was done, the keys of its inputs, and results,
each the topmost of the layers that hold it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from lading.errors import InvalidArgumentError, ResourceExhaustedError
from lading.oci import document
from lading.oci.digest import Digest
from lading.oci.document import convert, read

MEDIA_TYPE: Final = "application/vnd.buildkit.cacheconfig.v0"
CREATED_AT: Final = "buildkit/createdat"
"""Annotation of a layer's descriptor: when it was made."""
DIFF_ID: Final = "containerd.io/uncompressed"
"""Annotation of a layer's descriptor: its diff ID."""
LIMIT: Final = 64 * 1024 * 1024
"""Bytes of a config."""
NOTHING: Final = -1
"""In place of a layer below."""


class Layer(msgspec.Struct, frozen=True):
    """A blob, and the number of the layer below it, which Go leaves out if it is 0."""

    blob: str
    parent: int = 0


class Result(msgspec.Struct, frozen=True, rename={"created_at": "createdAt"}):
    """The topmost layer of a result; the time is RFC 3339."""

    layer: int
    created_at: str = "0001-01-01T00:00:00Z"


class Chain(msgspec.Struct, frozen=True, rename={"created_at": "createdAt"}):
    """A result by all of its layers."""

    layers: tuple[int, ...] = ()
    created_at: str = "0001-01-01T00:00:00Z"


class Input(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key of an input, by its record's number, and which part of it is used."""

    selector: str = ""
    link: int = msgspec.field(default=-1)


class Record(msgspec.Struct, frozen=True, omit_defaults=True, rename={"results": "layers"}):
    """A key. ``inputs`` hold the ways from each input."""

    results: tuple[Result, ...] = ()
    chains: tuple[Chain, ...] = ()
    digest: str = ""
    inputs: tuple[tuple[Input, ...], ...] = ()


class Config(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole cache."""

    layers: tuple[Layer, ...] = ()
    records: tuple[Record, ...] = ()


def encode(config: Config) -> bytes:
    """The document; the same for the same cache."""
    return document.encode(config)


def parse(data: bytes) -> Config:
    """Read one that a stranger wrote: every number is checked, and nothing leads to itself.

    Raises `InvalidArgumentError`, `ResourceExhaustedError`.
    """
    return _checked(convert(_read(data), Config, what="cache config"))


def encode_inline(config: Config) -> bytes:
    """The records alone, as they stand in the config of an image whose layers are those of the cache."""
    return msgspec.json.encode(config.records)


def parse_inline(data: bytes, layers: Sequence[str]) -> Config:
    """Read such records of an image with these layer blobs, bottom first. Raises as `parse`."""
    records = convert(_read(data), tuple[Record, ...], what="cache config")
    return _checked(Config(layers=stacked(layers), records=records))


def stacked(blobs: Sequence[str]) -> tuple[Layer, ...]:
    """Layers that stand on each other, bottom first."""
    return tuple(Layer(blob=blob, parent=number - 1) for number, blob in enumerate(blobs))


def _read(data: bytes) -> object:
    if len(data) > LIMIT:
        raise ResourceExhaustedError(f"the cache config is over {LIMIT} bytes")
    return read(data, what="cache config", limit=LIMIT)


def _checked(config: Config) -> Config:
    for number, layer in enumerate(config.layers):
        Digest(layer.blob)
        if not NOTHING <= layer.parent < len(config.layers) or layer.parent == number:
            raise InvalidArgumentError("the cache config has a layer on one that does not exist")
    for record in config.records:
        Digest(record.digest)
        numbers = [one.layer for one in record.results]
        numbers += [layer for chain in record.chains for layer in chain.layers]
        if any(not 0 <= one < len(config.layers) for one in numbers):
            raise InvalidArgumentError("the cache config has a result in a layer that does not exist")
        links = [one.link for steps in record.inputs for one in steps]
        if any(not 0 <= one < len(config.records) for one in links):
            raise InvalidArgumentError("the cache config has a link to a record that does not exist")
    return config


def layers_below(config: Config, top: int) -> list[int]:
    """A layer and all below it, bottom first. Raises `InvalidArgumentError` for a cycle."""
    found: list[int] = []
    while top != NOTHING:
        if len(found) > len(config.layers):
            raise InvalidArgumentError("the layers of the cache config stand on each other")
        found.append(top)
        top = config.layers[top].parent
    return found[::-1]
