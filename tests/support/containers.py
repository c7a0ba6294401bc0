"""Stand-ins for what the container service is built on: an image that is a directory, records in a file."""

import contextlib
import datetime as dt
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import anyio
import msgspec

from lading.containers.environment import ContainerImage, Environment, ImageSource
from lading.containers.service import ContainerService, open_service
from lading.core import containers, leases, snapshots
from lading.core.containers import ContainerRecord
from lading.core.diff import Change, Differ
from lading.core.events import Bus
from lading.core.leases import Lease, LeaseID
from lading.core.mounts import Mount
from lading.core.runtime import Runtime
from lading.core.snapshots import SnapshotInfo, SnapshotKey, SnapshotName, Usage
from lading.daemon.events import EventBus
from lading.errors import AlreadyExistsError, NotFoundError
from lading.oci import platform as platforms
from lading.oci.config import ImageConfig, RootFS, RunConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.testing.memory.networks import MemoryNetworks
from lading.testing.memory.volumes import MemoryVolumes, Shelf
from lading.transfer.commit import Changes, CommitOptions

APPLETS = [
    "sh",
    "cat",
    "echo",
    "false",
    "kill",
    "ls",
    "sleep",
    "stty",
    "true",
    "readlink",
    "id",
    "pwd",
    "env",
    "mount",
    "touch",
    "mkdir",
    "grep",
    "seq",
    "yes",
    "head",
    "hostname",
    "nproc",
    "chmod",
    "stat",
    "wc",
    "dd",
    "test",
    "printf",
    "tr",
    "sort",
    "date",
    "ps",
]


def make_tree(directory: Path) -> Path:
    """A root file system of busybox with some users."""
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "root"):
        (directory / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n1234:x:7:7::/:/bin/sh\n"
    )
    (directory / "etc/group").write_text("root:x:0:\nstaff:x:50:alice\nusers:x:1001:\n")
    (directory / "etc/not-executable").write_text("words\n")
    return directory


class FileRecords(containers.Store):
    """Container records in one JSON file, so that they outlive the process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _load(self) -> dict[str, ContainerRecord]:
        if not self._path.exists():
            return {}
        return {k: ContainerRecord(**v) for k, v in json.loads(self._path.read_text()).items()}

    def _save(self, records: Mapping[str, ContainerRecord]) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode({k: asdict(v) for k, v in records.items()}))
        temporary.replace(self._path)

    async def get(self, id: str) -> ContainerRecord:
        try:
            return self._load()[id]
        except KeyError:
            raise NotFoundError(id) from None

    async def list(self) -> list[ContainerRecord]:
        return list(self._load().values())

    async def create(self, record: ContainerRecord, *, durable: bool = True) -> None:
        del durable  # a file is renamed either way
        records = self._load()
        if record.id in records or record.name in {r.name for r in records.values()}:
            raise AlreadyExistsError(record.name)
        self._save({**records, record.id: record})

    async def update(self, record: ContainerRecord) -> None:
        records = self._load()
        if record.id not in records:
            raise NotFoundError(record.id)
        self._save({**records, record.id: record})

    async def delete(self, id: str) -> None:
        records = self._load()
        if records.pop(id, None) is None:
            raise NotFoundError(id)
        self._save(records)


class TreeSnapshots(snapshots.Snapshotter):
    """Snapshots that are copies of one tree, shown by bind mounts."""

    def __init__(self, tree: Path, root: Path) -> None:
        self._tree = tree
        self._root = root

    @property
    def name(self) -> str:
        return "tree"

    async def prepare(
        self,
        key: SnapshotKey,
        parent: SnapshotName | None,
        *,
        labels: snapshots.Labels = snapshots.NO_LABELS,
        lease: LeaseID | None = None,
        limit: int = 0,
    ) -> list[Mount]:
        assert not limit
        if (self._root / key).exists():
            raise AlreadyExistsError(key)
        await anyio.run_process(["cp", "-a", str(self._tree), str(self._root / key)])
        return await self.mounts(key)

    async def mounts(self, key: SnapshotKey) -> list[Mount]:
        if not (self._root / key).exists():
            raise NotFoundError(key)
        return [Mount(type="bind", source=str(self._root / key), options=("rbind", "rw"))]

    async def usage(self, key: str) -> Usage:
        return Usage(size=4096, inodes=1)

    async def stat(self, key: str) -> SnapshotInfo:
        now = dt.datetime.now(dt.UTC)
        return SnapshotInfo(key=key, kind=snapshots.Kind.ACTIVE, parent=None, created_at=now, updated_at=now)

    async def remove(self, key: str) -> None:
        if not (self._root / key).exists():
            raise NotFoundError(key)
        shutil.rmtree(self._root / key)


class NoLeases(leases.Manager):
    """Leases that are only counted."""

    def __init__(self) -> None:
        self.held: set[str] = set()

    async def create(self, id: LeaseID | None = None, *, labels: Mapping[str, str] | None = None) -> Lease:
        assert id is not None
        self.held.add(id)
        return Lease(id=id, created_at=dt.datetime.now(dt.UTC))

    async def delete(self, id: LeaseID) -> None:
        self.held.remove(id)

    async def list(self) -> list[Lease]:
        return [Lease(id=LeaseID(id_), created_at=dt.datetime.now(dt.UTC)) for id_ in self.held]


class TreeImages(ImageSource):
    """The image ``box``; whatever else is asked for is not there."""

    def __init__(self, run: RunConfig | None = None) -> None:
        self.run = run or RunConfig(cmd=("/bin/sh",), env=("PATH=/bin",))

    async def open(self, name: str, platform: Platform | None) -> ContainerImage:
        if name != "box":
            raise NotFoundError(f"No such image: {name}")
        descriptor = Descriptor(
            media_type="application/vnd.oci.image.manifest.v1+json", digest=Digest.of(b"box"), size=3
        )
        host = platforms.host()
        config = ImageConfig(
            architecture=host.architecture, os=host.os, rootfs=RootFS(type="layers"), config=self.run
        )
        return ContainerImage(target=descriptor, manifest=descriptor, config=config)

    async def unpack(
        self, manifest: Descriptor, *, lease: LeaseID | None = None, image: ContainerImage | None = None
    ) -> SnapshotName | None:
        return None

    async def commit(
        self,
        base: Descriptor,
        changes: Changes,
        options: CommitOptions,
        *,
        reference: Reference | None = None,
        parent: Digest | None = None,
    ) -> Descriptor:
        self.committed = options, reference
        return base


class NoDiffer(Differ):
    """Nothing was changed."""

    async def changes(self, key: str) -> list[Change]:
        return []

    @contextlib.asynccontextmanager
    async def open_diff(
        self, key: str, *, epoch: int | None = None, without: Collection[str] = ()
    ) -> AsyncGenerator[Iterator[bytes]]:
        yield iter([bytes(1024)])


def shelf(directory: Path) -> Shelf:
    (directory / "volumes").mkdir(exist_ok=True)
    return Shelf(directory / "volumes")


def environment(
    directory: Path, runtime: Runtime, *, images: ImageSource | None = None, bus: Bus | None = None
) -> Environment:
    """An environment below ``directory``; the same directory means the same data-root."""
    tree = directory / "tree"
    if not tree.exists():
        make_tree(tree)
    (directory / "snapshots").mkdir(exist_ok=True)
    return Environment(
        store=FileRecords(directory / "records.json"),
        images=images or TreeImages(),
        snapshotter=TreeSnapshots(tree, directory / "snapshots"),
        differ=NoDiffer(),
        leases=NoLeases(),
        runtime=runtime,
        bus=bus or EventBus(),
        networks=MemoryNetworks(bridge=False),
        volumes=MemoryVolumes(shelf(directory)),
        root=directory / "root/containers",
        state=directory / "state/containers",
        runtimes={"": "io.containerd.runc.v2", "runc": "io.containerd.runc.v2"},
        cgroup_v2=(Path("/sys/fs/cgroup") / "cgroup.controllers").exists(),
        stop_seconds=2,
    )


@contextlib.asynccontextmanager
async def service(
    directory: Path, runtime: Runtime, **options: object
) -> AsyncGenerator[tuple[ContainerService, Environment]]:
    env = environment(directory, runtime, **options)  # type: ignore[arg-type]
    async with open_service(env) as opened:
        yield opened, env


async def collect(chunks: AsyncIterator[object]) -> bytes:
    return b"".join([chunk.data async for chunk in chunks])  # type: ignore[attr-defined]
