"""What a definition says of an operation beside its bytes: how it is shown and cached, and where it stands in a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from lading.errors import InvalidArgumentError
from lading.formats.llb._pb import ops_pb2 as pb
from lading.oci.digest import Digest

CUSTOM_NAME: Final = "llb.customname"
"""Key of a description: the vertex's display name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressGroup:
    """Vertices that are shown as one; a ``weak`` group gives way to another."""

    id: str
    name: str = ""
    weak: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What is known of a vertex; no part of its digest."""

    ignore_cache: bool = False
    description: Mapping[str, str] = field(default_factory=dict[str, str])
    export_cache: bool | None = None
    caps: frozenset[str] = frozenset()
    """Abilities of a solver that the operation needs."""
    progress_group: ProgressGroup | None = None

    def merged(self, other: "Metadata") -> "Metadata":
        """Both; ``other`` wins where only one can stand."""
        return Metadata(
            ignore_cache=self.ignore_cache or other.ignore_cache,
            description={**self.description, **other.description},
            export_cache=self.export_cache if other.export_cache is None else other.export_cache,
            caps=self.caps | other.caps,
            progress_group=other.progress_group or self.progress_group,
        )


def decode_metadata(data: bytes) -> Metadata:
    """Read a ``pb.OpMetadata``. Raises `InvalidArgumentError`."""
    message = pb.OpMetadata()
    try:
        message.ParseFromString(data)
    except DecodeError as exc:
        raise InvalidArgumentError(f"LLB metadata is malformed: {exc}") from exc
    group = message.progress_group
    return Metadata(
        ignore_cache=message.ignore_cache,
        description=dict(message.description),
        export_cache=message.export_cache.Value if message.HasField("export_cache") else None,
        caps=frozenset(cap for cap, needed in message.caps.items() if needed),
        progress_group=ProgressGroup(id=group.id, name=group.name, weak=group.weak)
        if message.HasField("progress_group")
        else None,
    )


def encode_metadata(metadata: Metadata) -> bytes:
    """Write a ``pb.OpMetadata``."""
    message = pb.OpMetadata(
        ignore_cache=metadata.ignore_cache,
        description=metadata.description,
        caps=dict.fromkeys(metadata.caps, True),
    )
    if metadata.export_cache is not None:
        message.export_cache.CopyFrom(pb.ExportCache(Value=metadata.export_cache))
    group = metadata.progress_group
    if group is not None:
        message.progress_group.CopyFrom(pb.ProgressGroup(id=group.id, name=group.name, weak=group.weak))
    return message.SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRange:
    """Lines of a file, first is 1."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that errors, warnings and operations point into."""

    filename: str
    data: bytes
    language: str = "Dockerfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where an operation comes from."""

    file: SourceFile
    ranges: tuple[SourceRange, ...]


def decode_locations(source: bytes) -> dict[Digest, tuple[Location, ...]]:
    """Read a ``pb.Source``: the places of every vertex. Raises `InvalidArgumentError`."""
    message = pb.Source()
    try:
        message.ParseFromString(source)
    except DecodeError as exc:
        raise InvalidArgumentError(f"LLB source map is malformed: {exc}") from exc
    files = [
        SourceFile(filename=info.filename, data=info.data, language=info.language) for info in message.infos
    ]
    return {
        Digest(digest): tuple(_location(one, files) for one in places.locations)
        for digest, places in message.locations.items()
    }


def _location(message: pb.Location, files: Sequence[SourceFile]) -> Location:
    if not 0 <= message.sourceIndex < len(files):
        raise InvalidArgumentError(f"LLB source map names file {message.sourceIndex} of {len(files)}")
    ranges = [SourceRange(start=one.start.line, end=one.end.line) for one in message.ranges]
    return Location(file=files[message.sourceIndex], ranges=tuple(ranges))


def encode_locations(locations: Mapping[Digest, Sequence[Location]]) -> bytes:
    """Write a ``pb.Source``; each file stands in it once."""
    message = pb.Source()
    places: dict[SourceFile, int] = {}
    for digest, found in locations.items():
        entry = message.locations[digest]
        for location in found:
            if location.file not in places:
                places[location.file] = len(places)
                message.infos.append(_info(location.file))
            entry.locations.append(_place(location, places[location.file]))
    return message.SerializeToString(deterministic=True)


def _info(file: SourceFile) -> pb.SourceInfo:
    return pb.SourceInfo(filename=file.filename, data=file.data, language=file.language)


def _place(location: Location, index: int) -> pb.Location:
    ranges = [
        pb.Range(start=pb.Position(line=one.start), end=pb.Position(line=one.end)) for one in location.ranges
    ]
    return pb.Location(sourceIndex=index, ranges=ranges)
