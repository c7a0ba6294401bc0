"""How values stand in columns: times as microseconds, labels and descriptors as JSON."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from lading.core.builds import BuildRecord
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def _digest(kind: type[object], value: object) -> object:
    if kind is Digest and isinstance(value, str):
        return Digest(value)
    raise TypeError(f"expected text, got {type(value).__name__}")


_encoder: Final = msgspec.json.Encoder(enc_hook=str)
_text_map: Final = msgspec.json.Decoder(dict[str, str])
_document: Final = msgspec.json.Decoder(dict[str, Any])
_build: Final = msgspec.json.Decoder(BuildRecord, dec_hook=_digest)
_descriptor: Final = msgspec.json.Decoder(Descriptor, dec_hook=_digest)


def to_microseconds(moment: datetime) -> int:
    """Column value of a time."""
    return (moment - _EPOCH) // _MICROSECOND


def to_time(microseconds: int) -> datetime:
    """Time of a column value."""
    return _EPOCH + timedelta(microseconds=microseconds)


def dump(value: Mapping[str, Any] | Descriptor | BuildRecord) -> str:
    """Column value of labels, a JSON object, a descriptor or a build."""
    return "{}" if not value else _encoder.encode(value).decode()


def load_text_map(column: str) -> dict[str, str]:
    """Labels of a column value."""
    return {} if column == "{}" else _text_map.decode(column)


def load_document(column: str) -> dict[str, Any]:
    """JSON object of a column value."""
    return _document.decode(column)


def load_descriptor(column: str) -> Descriptor:
    """Descriptor of a column value."""
    return _descriptor.decode(column)


def encode_list(values: Iterable[str]) -> str:
    """Texts as one bound value, for ``json_each``."""
    return _encoder.encode([str(value) for value in values]).decode()


def load_build(column: str) -> BuildRecord:
    """Build of a column value."""
    return _build.decode(column)
