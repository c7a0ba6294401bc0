"""A container as the service knows it: the durable document, and what lives only in this process."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import anyio
import msgspec

from lading.containers import imagemounts
from lading.containers.binds import Bind, Tmpfs
from lading.containers.binds import parse as parse_binds
from lading.containers.execs import Exec
from lading.containers.health import Health
from lading.containers.imagemounts import ImageMount
from lading.containers.logdriver import Subject
from lading.containers.netmodes import Wish
from lading.containers.request import Config, HostConfig, RestartPolicy
from lading.containers.streams import Broadcast
from lading.containers.volumemounts import VolumeMount
from lading.core.containers import ContainerRecord
from lading.core.runtime import ContainerID, Task
from lading.errors import ConflictError
from lading.kit.tasks import SharedLock
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

T = TypeVar("T", bound=msgspec.Struct)


class State(msgspec.Struct, kw_only=True, rename="pascal", omit_defaults=True):
    """The last run. Times are nanoseconds since the epoch, 0 for never."""

    running: bool = False
    paused: bool = False
    held: bool = False
    """Paused, but by a commit that goes on: whoever takes the container up after it thaws it."""
    removing: bool = False
    restarting: bool = False
    oom_killed: bool = False
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: int = 0
    finished_at: int = 0

    @property
    def status(self) -> str:
        """Docker's word."""
        for word in ("paused", "restarting", "running", "removing", "dead"):
            if getattr(self, word):
                return word
        return "exited" if self.started_at else "created"


class Document(msgspec.Struct, kw_only=True, rename="pascal"):
    """What `ContainerRecord.document` holds. ``config`` and ``host_config`` are Docker's, image defaults merged in."""

    created: int
    path: str
    args: list[str]
    env: list[str]
    working_dir: str
    user: str
    hostname: str
    stop_signal: str
    config: dict[str, Any]
    host_config: dict[str, Any]
    manifest: Descriptor
    platform: str = "linux"
    state: State = msgspec.field(default_factory=State)
    restart_count: int = 0
    manually_stopped: bool = False
    images: dict[str, Descriptor] = {}
    """Manifests of mounted images, by target."""
    volumes: list[VolumeMount] = []
    borrowed: list[Bind] = []
    """Bind mounts of the containers that ``--volumes-from`` named."""
    networks: dict[str, Wish] = msgspec.field(default_factory=dict[str, Wish])
    """What it wants of each of its networks, by name; the first is that of ``NetworkMode``."""
    left_none: bool = False
    """Whether it was taken out of ``none``, which is still its ``NetworkMode``, so that it can be put into networks."""


@dataclass(slots=True)
class Container:
    """One container. ``lock`` serialises what changes it; waiting for its end needs no lock."""

    record: ContainerRecord
    document: Document
    config: Config
    host: HostConfig
    binds: list[Bind]
    tmpfs: list[Tmpfs]
    images: list[ImageMount]
    health: Health | None = None
    backoff: int = 0
    """Restarts in a row of which none lasted."""
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    starting: SharedLock = field(default_factory=SharedLock)
    """Held while an exec starts, and alone while the container is frozen: a process that starts in a frozen cgroup hangs."""
    output: Broadcast = field(default_factory=Broadcast)
    task: Task | None = None
    mount_namespace: str = ""
    """Of this run, by which its processes are found where there are no cgroups (`containers.members`)."""
    execs: dict[str, Exec] = field(default_factory=dict[str, Exec])
    started: anyio.Event = field(default_factory=anyio.Event)
    stopped: anyio.Event = field(default_factory=anyio.Event)
    removed: anyio.Event = field(default_factory=anyio.Event)
    stop_requested: bool = False
    restart_scope: anyio.CancelScope | None = None

    @property
    def id(self) -> ContainerID:
        """64 hexadecimal digits."""
        return ContainerID(self.record.id)

    @property
    def name(self) -> str:
        """Without the leading slash."""
        return self.record.name

    @property
    def state(self) -> State:
        """State of the last run."""
        return self.document.state

    @property
    def labels(self) -> dict[str, str]:
        """The container's labels, those of its image included."""
        return self.config.labels or {}

    @property
    def restart_policy(self) -> RestartPolicy:
        """What happens after its end."""
        return self.host.restart_policy or RestartPolicy()

    def running_task(self) -> Task:
        """Its task, if it runs. Raises `ConflictError`."""
        if self.task is None or not self.state.running:
            raise ConflictError(f"container {self.id} is not running", subject=self.id)
        return self.task

    def task_for_exec(self) -> Task:
        """Its task, if a further process can start in it. Raises `ConflictError`."""
        task = self.running_task()
        if self.state.paused:
            raise ConflictError(f"container {self.id} is paused, unpause the container before exec")
        return task

    def log_subject(self) -> Subject:
        """What its log may tell of it."""
        document = self.document
        return Subject(
            id=self.id,
            name=self.name,
            image=self.config.image,
            image_id=self.record.target,
            command=" ".join([document.path, *document.args]),
            labels=self.labels,
            env=dict(entry.split("=", 1) for entry in document.env if "=" in entry),
        )

    def attributes(self, **extra: str) -> dict[str, str]:
        """Attributes of its events: labels, image and name, and what the event adds."""
        return {**self.labels, "image": self.config.image, "name": self.name, **extra}

    def snapshot(self) -> ContainerRecord:
        """The record with the present document, to be stored."""
        document = cast("dict[str, Any]", msgspec.to_builtins(self.document, enc_hook=str))
        self.record = dataclasses.replace(self.record, document=document)
        return self.record


def load(record: ContainerRecord) -> Container:
    """The container of a stored record."""
    document = msgspec.convert(record.document, Document, dec_hook=_decode)
    return make(record, document)


def make(record: ContainerRecord, document: Document) -> Container:
    """A container of a record and its document."""
    config = convert(document.config, Config)
    host = convert(document.host_config, HostConfig)
    binds, tmpfs = parse_binds(host)
    return Container(
        record=record,
        document=document,
        config=config,
        host=host,
        binds=[*binds, *document.borrowed],
        tmpfs=tmpfs,
        images=imagemounts.parse(host),
    )


def convert(raw: dict[str, Any], kind: type[T]) -> T:
    """Read a part of a document that was checked when it was made; nulls are defaults."""
    return msgspec.convert({key: value for key, value in raw.items() if value is not None}, kind)


def _decode(kind: type[object], value: object) -> object:
    return kind(str(value)) if issubclass(kind, Digest) else value
