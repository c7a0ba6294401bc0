"""Operations as JSON, in the form that BuildKit's provenance shows them (``solver/pb/json.go``, Go's ``encoding/json``)."""

import base64
from collections.abc import Mapping, Sequence
from typing import Final, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from lading.formats.llb.decode import parse_op

Json = dict[str, "Json"] | list["Json"] | str | int | bool

_ALWAYS: Final = {"FileAction": ("input", "secondaryInput", "output")}
"""Fields that stand in the JSON also when they are zero."""
_WRAPPED: Final = {"Op": ("op", "Op"), "FileAction": ("action", "Action"), "UserOpt": ("user", "User")}
"""Messages whose alternatives are grouped: the name of the group here, and its key."""
_SPELLED: Final = {"byID": "byId", "definition": "def", "ops": "def"}
"""Keys that are not the field's name."""


def op_json(raw: bytes) -> "dict[str, Json]":
    """A ``pb.Op`` as a JSON value. Raises `InvalidArgumentError`."""
    return _message(parse_op(raw))


def _message(message: Message) -> dict[str, Json]:
    name = message.DESCRIPTOR.name
    shown: dict[str, Json] = dict.fromkeys(_ALWAYS.get(name, ()), 0)
    group, key = _WRAPPED.get(name, ("", ""))
    if group:
        shown[key] = {}
    for field, value in message.ListFields():
        spelled = _SPELLED.get(field.name, field.name)
        if field.containing_oneof is not None and field.containing_oneof.name == group:
            shown[key] = {spelled: _field(field, value)} if value != 0 else {}
        else:
            shown[spelled] = _field(field, value)
    return shown


def _field(field: FieldDescriptor, value: object) -> Json:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: _value(one) for key, one in sorted(cast("Mapping[str, object]", value).items())}
    if field.is_repeated:
        return [_value(one) for one in cast("Sequence[object]", value)]
    return _value(value)


def _value(value: object) -> Json:
    if isinstance(value, Message):
        return _message(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    assert isinstance(value, str | int | bool)
    return value
