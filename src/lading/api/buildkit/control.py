"""``moby.buildkit.v1.Control``: builds, their progress, their history, the cache."""

import time
from collections.abc import AsyncIterator
from typing import Final

from lading.api.buildkit import messages, worker
from lading.api.buildkit.worker import Worker
from lading.builder.control import Control
from lading.builder.events import status_messages, timestamp
from lading.builder.history import History, HistoryEvent
from lading.builder.model import PruneWish
from lading.builder.usage import fields_of
from lading.core import builds
from lading.errors import InvalidArgumentError
from lading.formats import filters
from lading.formats.buildkit._pb import control_pb2 as pb
from lading.formats.buildkit._pb.common_pb2 import RpcStatus
from lading.kit import times
from lading.kit.grpc.server import Handlers, Info, streaming, unary
from lading.oci.descriptor import Descriptor

SERVICE: Final = "/moby.buildkit.v1.Control"
_NOW: Final = "buildkit-current-timestamp"
_KINDS: Final = {"started": 0, "complete": 1, "deleted": 2}


class ControlService:
    """The service over one `Control`."""

    def __init__(self, control: Control, history: History, worker_: Worker) -> None:
        self._control = control
        self._history = history
        self._worker = worker_

    def handlers(self) -> Handlers:
        """The methods but ``Session``, which is a connection of its own."""
        return {
            f"{SERVICE}/ListWorkers": unary(pb.ListWorkersRequest, self.list_workers),
            f"{SERVICE}/Info": unary(pb.InfoRequest, self.info),
            f"{SERVICE}/Solve": unary(pb.SolveRequest, self.solve),
            f"{SERVICE}/Status": streaming(pb.StatusRequest, self.status),
            f"{SERVICE}/DiskUsage": unary(pb.DiskUsageRequest, self.disk_usage),
            f"{SERVICE}/Prune": streaming(pb.PruneRequest, self.prune),
            f"{SERVICE}/ListenBuildHistory": streaming(pb.BuildHistoryRequest, self.listen),
            f"{SERVICE}/UpdateBuildHistory": unary(pb.UpdateBuildHistoryRequest, self.update),
        }

    async def list_workers(self, request: pb.ListWorkersRequest, info: Info) -> pb.ListWorkersResponse:
        """The one worker, if the filters fit it."""
        del info
        wanted = filters.parse_all(request.filter)
        labels = self._worker.labels()

        def field(path: tuple[str, ...]) -> str | None:
            if path[0] == "id":
                return self._worker.id
            return labels.get(path[1]) if path[0] == "labels" and len(path) == 2 else None

        return pb.ListWorkersResponse(record=[await self._worker.record()] if wanted(field) else [])

    async def info(self, request: pb.InfoRequest, info: Info) -> pb.InfoResponse:
        """The version."""
        del request, info
        return pb.InfoResponse(buildkit_version=worker.VERSION)

    async def solve(self, request: pb.SolveRequest, info: Info) -> pb.SolveResponse:
        """Build."""
        del info
        response = await self._control.solve(messages.solve_wish(request))
        return pb.SolveResponse(exporter_response=dict(response))

    async def status(self, request: pb.StatusRequest, info: Info) -> AsyncIterator[pb.StatusResponse]:
        """What happens in a build."""
        info.call.add_header(_NOW, times.format_nano(time.time_ns()))
        async for events in self._control.status(request.ref):
            for message in status_messages(events):
                yield message

    async def disk_usage(self, request: pb.DiskUsageRequest, info: Info) -> pb.DiskUsageResponse:
        """The cache's records."""
        del info
        wanted = filters.parse_all(request.filter)
        oldest = time.time_ns() - request.age_limit if request.age_limit else None
        records = [
            messages.usage_message(record)
            for record in await self._control.solver.disk_usage()
            if wanted(fields_of(record)) and (oldest is None or record.last_used_at < oldest)
        ]
        return pb.DiskUsageResponse(record=records)

    async def prune(self, request: pb.PruneRequest, info: Info) -> AsyncIterator[pb.UsageRecord]:
        """Delete cache records."""
        del info
        filters.parse_all(request.filter)  # a bad one is refused before anything is deleted
        wish = PruneWish(
            filters=tuple(request.filter),
            all=request.all,
            keep_seconds=request.keep_duration / 10**9,
            reserved=request.reserved_space,
            max_used=request.max_used_space,
            min_free=request.min_free_space,
        )
        async for record in self._control.solver.prune(wish):
            yield messages.usage_message(record)

    async def listen(
        self, request: pb.BuildHistoryRequest, info: Info
    ) -> AsyncIterator[pb.BuildHistoryEvent]:
        """The history, and unless the client leaves early what changes in it."""
        info.call.add_header(_NOW, times.format_nano(time.time_ns()))
        wanted = _history_filter(list(request.filter))
        sent = 0
        for event in await self._history.list(active=request.active_only, ref=request.ref):
            if wanted(event.record) and (not request.limit or sent < request.limit):
                sent += 1
                yield _history_message(event)
        if request.early_exit:
            return
        async for event in self._history.follow():
            if wanted(event.record) and request.ref in ("", event.record.ref):
                yield _history_message(event)

    async def update(
        self, request: pb.UpdateBuildHistoryRequest, info: Info
    ) -> pb.UpdateBuildHistoryResponse:
        """Forget, pin or unpin a build; finalising is done when a build ends."""
        del info
        if request.delete:
            await self._history.delete(request.ref)
        elif not request.finalize:
            await self._history.pin(request.ref, pinned=request.pinned)
        return pb.UpdateBuildHistoryResponse()


def _history_filter(expressions: list[str]) -> "filters.Callable[[builds.BuildRecord], bool]":
    known = ("ref", "repository", "status")
    for each in expressions:
        if not each.startswith(known):
            raise InvalidArgumentError(f"invalid filter {each[:128]!r}", hint=f"filter by {', '.join(known)}")
    condition = filters.parse_all(expressions)

    def wanted(record: builds.BuildRecord) -> bool:
        status = "running" if not record.completed else "error" if record.error else "completed"
        values = {
            "ref": record.ref,
            "repository": record.options.get("vcs:source", record.options.get("context", "")),
            "status": status,
        }
        return condition(lambda path: values.get(path[0]))

    return wanted


def _history_message(event: HistoryEvent) -> pb.BuildHistoryEvent:
    record = event.record
    return pb.BuildHistoryEvent(
        type=_KINDS[event.kind],
        record=pb.BuildHistoryRecord(
            ref=record.ref,
            frontend=record.frontend,
            frontend_attrs=record.options,
            exporters=[pb.Exporter(type=each.type, attrs=each.attributes) for each in record.outputs],
            error=RpcStatus.FromString(record.error) if record.error else None,
            created_at=timestamp(record.created),
            completed_at=timestamp(record.completed),
            logs=_descriptor(record.log) if record.log else None,
            external_error=_descriptor(record.failure) if record.failure else None,
            exporter_response=record.response,
            result=_result(record.platforms[""]) if "" in record.platforms else None,
            results={name: _result(each) for name, each in record.platforms.items() if name},
            generation=record.generation,
            pinned=record.pinned,
            num_cached_steps=record.cached_steps,
            num_total_steps=record.total_steps,
            num_completed_steps=record.completed_steps,
            num_warnings=record.warnings,
        ),
    )


def _result(result: builds.PlatformResult) -> pb.BuildResultInfo:
    return pb.BuildResultInfo(
        result_deprecated=_descriptor(result.results[0]) if result.results else None,
        attestations=[_descriptor(each) for each in result.attestations],
        results={number: _descriptor(each) for number, each in enumerate(result.results)},
    )


def _descriptor(value: Descriptor) -> pb.Descriptor:
    return pb.Descriptor(
        media_type=value.media_type, digest=value.digest, size=value.size, annotations=value.annotations
    )
