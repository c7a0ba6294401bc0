"""A definition with other sources: the vertices that stand on a changed one get new names, and keep what is said of them."""

from collections.abc import Callable
from typing import Final

from lading.formats.llb._pb import ops_pb2 as pb
from lading.formats.llb.decode import parse_op
from lading.formats.llb.definition import Definition
from lading.formats.llb.metadata import decode_locations, encode_locations
from lading.oci.digest import Digest

_DETERMINISTIC: Final = True
Change = Callable[[str, dict[str, str]], tuple[str, dict[str, str]]]
"""Identifier and attributes of a source, to those that it shall have."""


def with_sources(definition: Definition, change: Change) -> Definition:
    """The same definition where ``change`` changes nothing. Raises `InvalidArgumentError` for a malformed operation."""
    renamed: dict[Digest, Digest] = {}
    made: list[bytes] = []
    for raw in definition.ops:
        message = parse_op(raw)
        if not _changed(message, renamed, change):
            made.append(raw)
            continue
        made.append(message.SerializeToString(deterministic=_DETERMINISTIC))
        renamed[Digest.of(raw)] = Digest.of(made[-1])
    if not renamed:
        return definition
    metadata = {renamed.get(digest, digest): value for digest, value in definition.metadata.items()}
    places = decode_locations(definition.source)
    moved = {renamed.get(digest, digest): value for digest, value in places.items()}
    return Definition(
        ops=tuple(made), metadata=metadata, source=encode_locations(moved) if definition.source else b""
    )


def _changed(message: pb.Op, renamed: dict[Digest, Digest], change: Change) -> bool:
    """Change an operation; whether it is another one now."""
    changed = False
    for one in message.inputs:
        if one.digest in renamed:
            one.digest = renamed[Digest(one.digest)]
            changed = True
    if message.WhichOneof("op") == "source":
        source = message.source
        before = (source.identifier, dict(source.attrs))
        after = change(*before)
        if after != before:
            source.identifier = after[0]
            source.attrs.clear()
            source.attrs.update(after[1])
            changed = True
    return changed
