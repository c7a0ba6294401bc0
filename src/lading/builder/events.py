"""Events of a build as BuildKit's status messages: for clients, and as they are kept in the history."""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lading.builder.reports import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent
from lading.formats.buildkit._pb import control_pb2 as pb
from lading.formats.llb._pb import ops_pb2 as llb
from lading.formats.llb.metadata import SourceFile, SourceRange
from lading.oci.digest import Digest

_BATCH_BYTES: Final = 1 << 20
_LENGTH: Final = struct.Struct("<I")


def timestamp(nanoseconds: int) -> Timestamp | None:
    """A time on the wire; ``None`` for 0."""
    if not nanoseconds:
        return None
    return Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def status_messages(events: Sequence[Event]) -> Iterator[pb.StatusResponse]:
    """Events as messages of about a megabyte at most."""
    message, size = pb.StatusResponse(), 0
    for event in events:
        if isinstance(event, VertexEvent):
            message.vertexes.append(_vertex(event))
        elif isinstance(event, StatusEvent):
            message.statuses.append(_status(event))
        elif isinstance(event, LogEvent):
            message.logs.append(
                pb.VertexLog(
                    vertex=event.vertex,
                    timestamp=timestamp(event.timestamp),
                    stream=event.stream,
                    msg=event.data,
                )
            )
            size += len(event.data)
        else:
            message.warnings.append(_warning(event))
        size += 256
        if size > _BATCH_BYTES:
            yield message
            message, size = pb.StatusResponse(), 0
    if size:
        yield message


def _vertex(event: VertexEvent) -> pb.Vertex:
    group = None
    if event.progress_group is not None:
        id, name, weak = event.progress_group  # noqa: A001 - the field's name
        group = llb.ProgressGroup(id=id, name=name, weak=weak)
    return pb.Vertex(
        digest=event.digest,
        inputs=event.inputs,
        name=event.name,
        cached=event.cached,
        started=timestamp(event.started),
        completed=timestamp(event.completed),
        error=event.error,
        progress_group=group,
    )


def _status(event: StatusEvent) -> pb.VertexStatus:
    return pb.VertexStatus(
        id=event.id,
        vertex=event.vertex,
        name=event.name,
        current=event.current,
        total=event.total,
        timestamp=timestamp(event.timestamp),
        started=timestamp(event.started),
        completed=timestamp(event.completed),
    )


def _warning(event: WarningEvent) -> pb.VertexWarning:
    source = event.source
    return pb.VertexWarning(
        vertex=event.vertex,
        level=event.level,
        short=event.short,
        detail=event.detail,
        url=event.url,
        info=None
        if source is None
        else llb.SourceInfo(filename=source.filename, data=source.data, language=source.language),
        ranges=[
            llb.Range(start=llb.Position(line=each.start), end=llb.Position(line=each.end))
            for each in event.ranges
        ],
    )


def events_of(message: pb.StatusResponse) -> list[Event]:
    """The events of a message, for the history."""
    events: list[Event] = [
        VertexEvent(
            digest=Digest(each.digest),
            inputs=tuple(Digest(one) for one in each.inputs),
            name=each.name,
            cached=each.cached,
            started=_nano(each.started),
            completed=_nano(each.completed),
            error=each.error,
        )
        for each in message.vertexes
    ]
    events += [
        StatusEvent(
            id=each.id,
            vertex=Digest(each.vertex),
            name=each.name,
            current=each.current,
            total=each.total,
            timestamp=_nano(each.timestamp),
            started=_nano(each.started),
            completed=_nano(each.completed),
        )
        for each in message.statuses
    ]
    events += [
        LogEvent(
            vertex=Digest(each.vertex), stream=each.stream, data=each.msg, timestamp=_nano(each.timestamp)
        )
        for each in message.logs
    ]
    events += [_remark(each) for each in message.warnings]
    return events


def _remark(each: pb.VertexWarning) -> WarningEvent:
    info = each.info
    return WarningEvent(
        vertex=Digest(each.vertex),
        level=each.level,
        short=each.short,
        detail=tuple(each.detail),
        url=each.url,
        source=SourceFile(filename=info.filename, data=info.data, language=info.language)
        if each.HasField("info")
        else None,
        ranges=tuple(SourceRange(start=one.start.line, end=one.end.line) for one in each.ranges),
    )


def marshal(events: Sequence[Event]) -> bytes:
    """Events as a blob of the history: messages, each after its length as a little-endian 32-bit number."""
    parts: list[bytes] = []
    for message in status_messages(events):
        data = message.SerializeToString()
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join(parts)


def unmarshal(blob: bytes) -> Iterator[list[Event]]:
    """The events of such a blob, message by message."""
    start = 0
    while start + _LENGTH.size <= len(blob):
        (length,) = _LENGTH.unpack_from(blob, start)
        start += _LENGTH.size
        yield events_of(pb.StatusResponse.FromString(blob[start : start + length]))
        start += length


def _nano(value: Timestamp) -> int:
    return value.seconds * 10**9 + value.nanos
