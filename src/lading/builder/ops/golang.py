"""Messages as Go's ``encoding/json`` writes them: what BuildKit computes its cache keys of."""

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from lading.formats.llb._pb import ops_pb2 as pb

_ESCAPES: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def dump(value: object) -> bytes:
    """JSON of plain data, without spaces, keys in their order."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char, escape in _ESCAPES.items():
        text = text.replace(char, escape)
    return text.encode("utf-8", "surrogateescape")


def plain(message: Message) -> dict[str, Any]:
    """A message as plain data: fields in the order of their declaration, those that are zero left out."""
    if isinstance(message, pb.UserOpt):
        return {"User": _user(message)}
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value: Any = getattr(message, field.name)
        if field.is_repeated:
            if value:
                found[field.name] = _many(field, value)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if message.HasField(field.name):
                found[field.name] = plain(value)
        elif value:
            found[field.name] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    return found


def _many(field: Any, value: Any) -> "dict[str, Any] | list[Any]":
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {key: value[key] for key in sorted(value)}
    return [plain(one) if isinstance(one, Message) else one for one in value]


def _user(message: pb.UserOpt) -> Mapping[str, object]:
    if message.HasField("byName"):
        return {"byName": plain(message.byName)}
    return {"byId": message.byID} if message.byID else {}


def parse(raw: bytes) -> pb.Op:
    """The message of an operation that was checked before."""
    message = pb.Op()
    message.ParseFromString(raw)
    return message
