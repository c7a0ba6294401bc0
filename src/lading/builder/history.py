"""The history of builds: what ``docker buildx history`` shows, and the log of a build that is over."""

import base64
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup
from typing_extensions import override

from lading.builder import events
from lading.builder.control import Build, Recorder
from lading.builder.reports import Event, VertexEvent, WarningEvent
from lading.builder.results import Ref
from lading.core import builds, content, leases
from lading.core.builds import BuildRecord, Output, PlatformResult
from lading.core.leases import LeaseID
from lading.errors import AlreadyExistsError, LadingError, NotFoundError
from lading.kit.tasks import Signal
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.document import decode
from lading.oci.mediatypes import IN_TOTO

FAILURE_TYPE: Final = "application/vnd.googeapis.google.rpc.status+proto"  # BuildKit writes it so
LOG_TYPE: Final = "application/vnd.buildkit.status.v0"
KEPT: Final = 50
KEPT_SECONDS: Final = 48 * 3600
_PREDICATE: Final = "in-toto.io/predicate-type"
_LOG_LIMIT: Final = 256 << 20
_LEASES: Final = "lading-build-"
_ANSWER_SECONDS: Final = 0.01
"""What a client's answer takes to be sent, which goes before the record."""
_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """A change of the history."""

    kind: Literal["started", "complete", "deleted"]
    record: BuildRecord


class History(Recorder):
    """The builds of this daemon, over and under way.

    Args:
        store: The records.
        blobs: Where logs and attestations are kept.
        lease_manager: Holds them.
        failure: An error as a marshalled ``google.rpc.Status``.
        provenance: Type and predicate of the provenance of one ref of a build.

    """

    def __init__(
        self,
        *,
        store: builds.Store,
        blobs: content.Store,
        lease_manager: leases.Manager,
        failure: Callable[[BaseException], bytes],
        provenance: Callable[[Build, Ref | None], tuple[str, bytes]],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._leases = lease_manager
        self._failure = failure
        self._provenance = provenance
        self._active: dict[str, BuildRecord] = {}
        self._group: TaskGroup | None = None
        self._unwritten: set[str] = set()
        self._news: list[HistoryEvent] = []
        self._changed = Signal()

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[None]:
        """While the context lasts, records are written after clients had their answer; when it is left, all are.

        Whoever asks for the history waits for them, so that nobody can tell.
        """
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None

    async def _settle(self, ref: str = "") -> None:
        """Wait until the records of all builds that are over are written, or of one."""
        while ref in self._unwritten if ref else self._unwritten:
            await self._changed.wait()

    async def recover(self) -> None:
        """Let go of what a daemon that was killed kept for a record that it did not come to write."""
        known = {_lease_of(record.ref) for record in await self._store.list()}
        for lease in await self._leases.list():
            if lease.id.startswith(_LEASES) and lease.id not in known:
                with suppress(NotFoundError):
                    await self._leases.delete(lease.id)

    @override
    async def began(self, build: Build) -> None:
        wish = build.wish
        record = BuildRecord(
            ref=wish.ref,
            frontend=wish.frontend,
            options=public_options(wish.options),
            outputs=tuple(Output(type=each.type, attributes=dict(each.attributes)) for each in wish.exports),
            created=build.started,
        )
        self._active[wish.ref] = record
        self._tell(HistoryEvent(kind="started", record=record))

    @override
    async def ended(self, build: Build, response: Mapping[str, str], error: BaseException | None) -> None:
        if self._group is None:
            await self._write(build, response, error)
        else:
            self._unwritten.add(build.wish.ref)
            self._group.start_soon(self._write_later, build, response, error)

    async def _write_later(
        self, build: Build, response: Mapping[str, str], error: BaseException | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(_ANSWER_SECONDS)
            try:
                await self._write(build, response, error)
            except LadingError as exc:  # the build itself is not the worse for it
                _log.warning("build_not_recorded", build=build.wish.ref, error=str(exc))
                self._active.pop(build.wish.ref, None)
            finally:
                self._unwritten.discard(build.wish.ref)
                self._changed.wake()

    async def _write(self, build: Build, response: Mapping[str, str], error: BaseException | None) -> None:
        record = self._active[build.wish.ref]
        lease = _lease_of(build.wish.ref)
        with suppress(AlreadyExistsError):
            await self._leases.create(lease)
        kept: dict[Digest, bytes] = {}
        log = _gathered(kept, events.marshal(build.log.events), LOG_TYPE)
        failure = b"" if error is None else self._failure(error)
        told = _gathered(kept, failure, FAILURE_TYPE) if failure else None
        platforms = self._platforms(build, response, kept) if error is None else {}
        await self._blobs.put_many(kept, lease=lease, durable=False)  # with the record
        vertices = _vertices(build.log.events)
        done = msgspec.structs.replace(
            record,
            frontend=build.frontend or record.frontend,
            options=public_options(build.options),
            completed=time.time_ns(),
            error=failure,
            failure=told,
            log=log,
            platforms=platforms,
            response=dict(response),
            total_steps=len(vertices),
            cached_steps=sum(each.cached for each in vertices),
            completed_steps=sum(bool(each.completed) for each in vertices),
            warnings=sum(isinstance(each, WarningEvent) for each in build.log.events),
            generation=1,
        )
        await self._store.put(done)
        del self._active[build.wish.ref]
        self._tell(HistoryEvent(kind="complete", record=done))
        await self._expire()

    def _platforms(
        self, build: Build, response: Mapping[str, str], kept: dict[Digest, bytes]
    ) -> dict[str, PlatformResult]:
        """Provenance for each platform, and the descriptor of what was exported."""
        if build.result is None:
            return {}
        made = _exported(response)
        found: dict[str, PlatformResult] = {}
        for key, ref in build.result.refs.items():
            kind, body = self._provenance(build, ref)
            statement = _gathered(kept, body, IN_TOTO, {_PREDICATE: kind})
            found[key] = PlatformResult(attestations=(statement,), results=made)
        return found

    async def _expire(self) -> None:
        oldest = time.time_ns() - KEPT_SECONDS * 10**9
        loose = [record for record in await self._store.list() if not record.pinned]
        for number, record in enumerate(loose):
            if number >= KEPT or record.created < oldest:
                with suppress(NotFoundError):  # another build that ends at the same time expires it too
                    await self._forget(record.ref)

    def _tell(self, event: HistoryEvent) -> None:
        self._news.append(event)
        del self._news[:-1000]
        self._changed.wake()

    @override
    async def replay(self, ref: str) -> AsyncIterator[Sequence[Event]]:
        await self._settle(ref)
        record = await self._store.get(ref)
        if record.log is None:
            raise NotFoundError(f"build {ref} left no log", subject=ref)
        for batch in events.unmarshal(await self._blobs.read(record.log.digest, limit=_LOG_LIMIT)):
            yield batch

    async def list(self, *, active: bool, ref: str = "") -> Sequence[HistoryEvent]:
        """What is known now, newest first: builds under way, and unless ``active`` those that are over."""
        if not active:
            await self._settle(ref)
        running = [each for each in self._active.values() if not (active and each.ref in self._unwritten)]
        found = [HistoryEvent(kind="started", record=each) for each in running]
        if not active:
            found += [HistoryEvent(kind="complete", record=each) for each in await self._store.list()]
        chosen = [each for each in found if not ref or each.record.ref == ref]
        return sorted(chosen, key=lambda each: each.record.created, reverse=True)

    async def follow(self) -> AsyncIterator[HistoryEvent]:
        """What changes from now on."""
        last = self._news[-1] if self._news else None
        while True:
            start = next((i + 1 for i, each in enumerate(self._news) if each is last), 0)
            if start == len(self._news):
                await self._changed.wait()
            for event in self._news[start:]:
                last = event
                yield event

    async def pin(self, ref: str, *, pinned: bool) -> None:
        """Keep a record for good, or not any more. Raises `NotFoundError`."""
        await self._settle()
        record = await self._store.get(ref)
        await self._store.put(
            msgspec.structs.replace(record, pinned=pinned, generation=record.generation + 1)
        )

    async def delete(self, ref: str) -> None:
        """Forget a build. Raises `NotFoundError`."""
        await self._settle()
        await self._forget(ref)

    async def _forget(self, ref: str) -> None:
        record = await self._store.delete(ref)
        with suppress(NotFoundError):
            await self._leases.delete(_lease_of(ref))
        self._tell(HistoryEvent(kind="deleted", record=record))


def _lease_of(ref: str) -> LeaseID:
    """The lease that holds what the record of a build names."""
    return LeaseID(f"{_LEASES}{ref}")


def _gathered(
    kept: dict[Digest, bytes], data: bytes, media_type: str, annotations: dict[str, str] | None = None
) -> Descriptor:
    """The descriptor of bytes that are to be kept."""
    digest = Digest.of(data)
    kept[digest] = data
    return Descriptor(media_type=media_type, digest=digest, size=len(data), annotations=annotations or {})


def _exported(response: Mapping[str, str]) -> tuple[Descriptor, ...]:
    raw = response.get("containerimage.descriptor")
    if raw is None:
        return ()
    return (decode(base64.b64decode(raw), Descriptor, what="descriptor", limit=1 << 20),)


def public_options(options: Mapping[str, str]) -> dict[str, str]:
    """The options as they are shown."""
    return {key: value for key, value in options.items() if not key.startswith("cache-imports")}


def _vertices(all_events: Sequence[Event]) -> Sequence[VertexEvent]:
    return list({each.digest: each for each in all_events if isinstance(each, VertexEvent)}.values())
