"""Names on the wire, and the translation between protobuf messages and values of `lading.core.runtime`."""

import json
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from lading.core.runtime import ContainerID, Exit, ProcessState, Status, TaskEvent
from lading.errors import (
    AlreadyExistsError,
    CancelledError,
    ConflictError,
    DataLossError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    NotModifiedError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from lading.runtime._pb import metrics_v1_pb2, metrics_v2_pb2, task_pb2

TASK_SERVICES: Final = {2: "containerd.task.v2.Task", 3: "containerd.task.v3.Task"}
"""Task API version to ttrpc service; the messages are the same."""
EVENTS_SERVICE: Final = "containerd.services.events.ttrpc.v1.Events"
NAMESPACE_KEY: Final = "containerd-namespace-ttrpc"

RUNC_OPTIONS: Final = "containerd.runc.v1.Options"
RUNTIME_OPTIONS: Final = "runtimeoptions.v1.Options"
_SPEC: Final = "types.containerd.io/opencontainers/runtime-spec/1/"
PROCESS: Final = _SPEC + "Process"
RESOURCES: Final = _SPEC + "LinuxResources"

# google.rpc.Code, total: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_ERRORS: Final[Mapping[int, type[LadingError]]] = {
    1: CancelledError,
    2: InternalError,
    3: InvalidArgumentError,
    4: UnavailableError,
    5: NotFoundError,
    6: AlreadyExistsError,
    7: PermissionDeniedError,
    8: ResourceExhaustedError,
    9: FailedPreconditionError,
    10: ConflictError,
    11: InvalidArgumentError,
    12: UnsupportedError,
    13: InternalError,
    14: UnavailableError,
    15: DataLossError,
    16: UnauthenticatedError,
}
_CODES: Final[Mapping[type[LadingError], int]] = {
    CancelledError: 1,
    LadingError: 2,
    InvalidArgumentError: 3,
    NotFoundError: 5,
    AlreadyExistsError: 6,
    PermissionDeniedError: 7,
    ResourceExhaustedError: 8,
    FailedPreconditionError: 9,
    ConflictError: 9,
    NotModifiedError: 9,
    UnsupportedError: 12,
    InternalError: 13,
    UnavailableError: 14,
    DataLossError: 15,
    UnauthenticatedError: 16,
}
# errdefs ends messages with its own class text, which says nothing to a reader.
_CLASS_TEXTS: Final = (
    "not found",
    "already exists",
    "failed precondition",
    "invalid argument",
    "unavailable",
    "not implemented",
    "unknown",
    "canceled",
    "context canceled",
    "deadline exceeded",
)


def error_of(code: int, message: str) -> LadingError:
    """The error that a peer's google.rpc.Status means."""
    kind = _ERRORS.get(code, InternalError)
    if code == 9:  # FAILED_PRECONDITION stands for three classes, told apart by the message's end
        for text, special in ((": conflict", ConflictError), (": not modified", NotModifiedError)):
            if message.endswith(text):
                return special(message.removesuffix(text))
    for text in _CLASS_TEXTS:
        message = message.removesuffix(f": {text}")
    return kind(message or kind.code)


def status_of(error: LadingError) -> tuple[int, str]:
    """google.rpc code and message of an error that leaves through our ttrpc server."""
    kind = next(k for k in type(error).__mro__ if k in _CODES)
    suffix = {ConflictError: ": conflict", NotModifiedError: ": not modified"}.get(kind, "")
    return _CODES[kind], f"{error}{suffix}"


def any_of(type_url: str, value: bytes) -> AnyMessage:
    """An Any with a bare type name, as containerd writes them (Python's ``Pack`` insists on a slash)."""
    return AnyMessage(type_url=type_url, value=value)


def any_message(type_url: str, message: Message) -> AnyMessage:
    """An Any that holds a message."""
    return any_of(type_url, message.SerializeToString())


def any_json(type_url: str, document: Mapping[str, Any]) -> AnyMessage:
    """An Any that holds a JSON document, as containerd carries OCI structs."""
    return any_of(type_url, json.dumps(document).encode())


def type_name(value: AnyMessage) -> str:
    """The full name of an Any's type, with or without a host before it."""
    return value.type_url.removeprefix("type.googleapis.com/")


def nanoseconds(stamp: Timestamp) -> int:
    """A time stamp as nanoseconds since the epoch; 0 for unset and for Go's zero time (year 1)."""
    return stamp.seconds * 1_000_000_000 + stamp.nanos if stamp.seconds > 0 else 0


_STATUSES: Final = {
    task_pb2.CREATED: Status.CREATED,
    task_pb2.RUNNING: Status.RUNNING,
    task_pb2.STOPPED: Status.STOPPED,
    task_pb2.PAUSED: Status.PAUSED,
    task_pb2.PAUSING: Status.PAUSED,
}


def process_state(response: task_pb2.StateResponse) -> ProcessState:
    """State of a process as a shim tells it. A shim that does not know (the process just ended) means stopped."""
    return ProcessState(
        status=_STATUSES.get(response.status, Status.STOPPED),
        pid=response.pid,
        exit_status=response.exit_status,
        exited_at_nano=nanoseconds(response.exited_at),
    )


def exit_of(response: task_pb2.WaitResponse | task_pb2.DeleteResponse) -> Exit:
    """How a process ended, as a shim tells it."""
    return Exit(status=response.exit_status, exited_at_nano=nanoseconds(response.exited_at))


_Event = (
    task_pb2.TaskCreate
    | task_pb2.TaskStart
    | task_pb2.TaskDelete
    | task_pb2.TaskExit
    | task_pb2.TaskExecAdded
    | task_pb2.TaskExecStarted
    | task_pb2.TaskNotice
)
_EVENTS: Final[Mapping[str, type[_Event]]] = {
    "containerd.events.TaskCreate": task_pb2.TaskCreate,
    "containerd.events.TaskStart": task_pb2.TaskStart,
    "containerd.events.TaskDelete": task_pb2.TaskDelete,
    "containerd.events.TaskExit": task_pb2.TaskExit,
    "containerd.events.TaskOOM": task_pb2.TaskNotice,
    "containerd.events.TaskExecAdded": task_pb2.TaskExecAdded,
    "containerd.events.TaskExecStarted": task_pb2.TaskExecStarted,
    "containerd.events.TaskPaused": task_pb2.TaskNotice,
    "containerd.events.TaskResumed": task_pb2.TaskNotice,
    "containerd.events.TaskCheckpointed": task_pb2.TaskNotice,
}


def task_event(envelope: task_pb2.Envelope) -> TaskEvent | None:
    """What a shim reported, or None for an event that is not about a task.

    Raises:
        InvalidArgumentError: The event does not parse.

    """
    name = type_name(envelope.event)
    kind = _EVENTS.get(name)
    if kind is None:
        return None
    try:
        event = kind.FromString(envelope.event.value)
    except DecodeError as exc:
        raise InvalidArgumentError(f"an event of type {name} does not parse", subject=envelope.topic) from exc
    exec_id, pid, status, moment = "", 0, 0, envelope.timestamp
    if isinstance(event, (task_pb2.TaskExit, task_pb2.TaskDelete)):
        exec_id, status, moment = event.id, event.exit_status, event.exited_at
    if isinstance(event, (task_pb2.TaskExecAdded, task_pb2.TaskExecStarted)):
        exec_id = event.exec_id
    if not isinstance(event, (task_pb2.TaskNotice, task_pb2.TaskExecAdded)):
        pid = event.pid
    if exec_id == event.container_id:  # the first process is named so in exit events
        exec_id = ""
    return TaskEvent(
        topic=envelope.topic,
        container=ContainerID(event.container_id),
        exec_id=exec_id,
        pid=pid,
        exit_status=status,
        time_nano=nanoseconds(moment) or nanoseconds(envelope.timestamp),
    )


_METRICS: Final[Mapping[str, type[Message]]] = {
    "io.containerd.cgroups.v1.Metrics": metrics_v1_pb2.Metrics,
    "io.containerd.cgroups.v2.Metrics": metrics_v2_pb2.Metrics,
}


def metrics(value: AnyMessage) -> dict[str, Any]:
    """Cgroup figures as plain data, with the type's name under ``@type``.

    Raises:
        UnsupportedError: Figures of a kind that is not known here.
        DataLossError: They do not parse.

    """
    name = type_name(value)
    kind = _METRICS.get(name)
    if kind is None:
        raise UnsupportedError(f"the runtime reports figures of the unknown type {name!r}", subject=name)
    try:
        message = kind.FromString(value.value)
    except DecodeError as exc:
        raise DataLossError(f"figures of type {name} do not parse", subject=name) from exc
    return {"@type": name, **_plain(message)}


def _plain(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is None:
            plain[field.name] = list(value) if field.is_repeated else value
        elif field.is_repeated:
            plain[field.name] = [_plain(item) for item in value]
        elif message.HasField(field.name):
            plain[field.name] = _plain(value)
    return plain
