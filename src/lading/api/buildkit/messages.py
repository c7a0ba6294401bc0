"""Between BuildKit's messages and the builder's values."""

from collections.abc import Iterable, Mapping

from lading.builder.control import CacheWish, ExportWish, SolveWish
from lading.builder.events import timestamp
from lading.builder.model import UsageRecord
from lading.builder.reports import WarningEvent
from lading.builder.results import FileStat
from lading.errors import InvalidArgumentError, UnsupportedError
from lading.formats.buildkit import filemode, sourcepolicy
from lading.formats.buildkit._pb import control_pb2 as pb
from lading.formats.buildkit._pb.fsutil_pb2 import Stat
from lading.formats.buildkit._pb.gateway_pb2 import WarnRequest
from lading.formats.llb._pb import ops_pb2 as llb
from lading.formats.llb.decode import definition_from
from lading.formats.llb.definition import Definition
from lading.formats.llb.metadata import SourceFile, SourceRange
from lading.oci.digest import Digest


def definition_message(value: Definition) -> llb.Definition:
    """A graph as a message."""
    return llb.Definition(
        ops=value.ops,
        metadata={str(key): each for key, each in value.metadata.items()},
        source=value.source,
    )


def definitions(messages: Mapping[str, llb.Definition]) -> dict[str, Definition]:
    """Graphs by name. Raises `InvalidArgumentError` for a key that is no digest."""
    return {name: definition_from(message) for name, message in messages.items()}


def solve_wish(request: pb.SolveRequest) -> SolveWish:
    """What a solve request asks for."""
    if not request.ref:
        raise InvalidArgumentError("the build has no ref")
    if request.source_policy_session:
        raise UnsupportedError("policies that a session decides are not supported", hint="use a policy file")
    exports = [ExportWish(type=each.type, attributes=dict(each.attrs)) for each in request.exporters]
    if not exports and request.exporter_deprecated:
        attributes = dict(request.exporter_attrs_deprecated)
        exports = [ExportWish(type=request.exporter_deprecated, attributes=attributes)]
    return SolveWish(
        ref=request.ref,
        session=request.session,
        definition=definition_from(request.definition) if request.HasField("definition") else None,
        frontend=request.frontend,
        options=dict(request.frontend_attrs),
        inputs=definitions(request.frontend_inputs),
        exports=exports,
        cache_exports=_caches(request.cache.exports),
        cache_imports=_caches(request.cache.imports),
        entitlements=frozenset(request.entitlements),
        internal=request.internal,
        policies=(sourcepolicy.parse(request.source_policy),) if request.source_policy else (),
    )


def _caches(entries: Iterable[pb.CacheEntry]) -> list[CacheWish]:
    return [CacheWish(type=each.type, attributes=dict(each.attrs)) for each in entries]


def warning(request: WarnRequest) -> WarningEvent:
    """A remark of a client's frontend."""
    return WarningEvent(
        vertex=Digest(request.digest),
        level=request.level,
        short=request.short,
        detail=tuple(request.detail),
        url=request.url,
        source=SourceFile(
            filename=request.info.filename, data=request.info.data, language=request.info.language
        )
        if request.HasField("info")
        else None,
        ranges=tuple(SourceRange(start=each.start.line, end=each.end.line) for each in request.ranges),
    )


def usage_message(record: UsageRecord) -> pb.UsageRecord:
    """A cache record as a message."""
    return pb.UsageRecord(
        id=record.id,
        mutable=record.mutable,
        in_use=record.in_use,
        size=record.size,
        parent=record.parents[0] if record.parents else "",
        parents=record.parents,
        created_at=timestamp(record.created_at),
        last_used_at=timestamp(record.last_used_at),
        usage_count=record.usage_count,
        description=record.description,
        record_type=record.record_type,
        shared=record.shared,
    )


def stat_message(value: FileStat) -> Stat:
    """A file as fsutil tells it."""
    return Stat(
        path=value.path,
        mode=filemode.from_unix(value.mode),
        uid=value.uid,
        gid=value.gid,
        size=value.size,
        mod_time=value.mtime,
        linkname=value.link,
        devmajor=value.devmajor,
        devminor=value.devminor,
    )
