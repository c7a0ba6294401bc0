"""A solver over a real store and real shims, with a client in this process."""

import json
import os
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lading.builder.reports import Event, LogEvent, VertexEvent
from lading.builder.service import BuildSolver, Environment
from lading.core.metadata import Namespace
from lading.core.remotes import Credentials
from lading.core.session import Synced, SyncWish
from lading.daemon import image_store
from lading.daemon.config import Config, LadingSettings
from lading.daemon.events import EventBus
from lading.errors import NotFoundError, UnavailableError
from lading.formats.llb import make, ops
from lading.formats.llb.definition import Definition
from lading.kit import aio
from lading.oci.digest import Digest
from lading.runtime.service import ShimRuntime
from lading.testing.registry import FakeRegistry
from support.bundles import remove_cgroups
from support.images import GOARCH, compressed, layer_tar


class Screen:
    """A build's progress, kept."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def vertices(self) -> dict[str, VertexEvent]:
        """The last state of each vertex, by name."""
        return {event.name: event for event in self.events if isinstance(event, VertexEvent)}

    def cached(self) -> set[str]:
        """Names of vertices that were found in the cache."""
        return {name for name, event in self.vertices().items() if event.cached}

    def ran(self) -> set[str]:
        """Names of vertices that were done."""
        return {name for name, event in self.vertices().items() if event.completed and not event.cached}

    def output(self) -> str:
        """What processes wrote."""
        return b"".join(event.data for event in self.events if isinstance(event, LogEvent)).decode()


@dataclass
class Client:
    """A session whose files are directories on this machine."""

    directories: dict[str, Path] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    id: str = "client"
    shared_key: str = "key"
    gone: bool = False
    syncs: int = 0

    def offers(self, method: str) -> bool:
        return True

    async def sync(self, wish: SyncWish, into: str, *, told: Any = None, memory: Any = None) -> Synced:
        if self.gone:
            raise UnavailableError("the client left")
        if wish.name not in self.directories:
            raise NotFoundError(f"no directory {wish.name}")
        self.syncs += 1
        await aio.run(aio.DISK, _mirror, self.directories[wish.name], Path(into))
        return Synced(files=0, bytes=0, transferred_files=0, transferred_bytes=0)

    async def credentials(self, host: str) -> Credentials | None:
        return None

    async def secret(self, id: str) -> bytes:
        if self.gone:
            raise UnavailableError("the client left")
        if id not in self.secrets:
            raise NotFoundError(f"no secret {id}")
        return self.secrets[id]

    async def check_agent(self, id: str) -> None:
        raise NotFoundError(f"no agent {id}")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def _mirror(source: Path, target: Path) -> None:
    """Make ``target`` equal to ``source``; what is the same stays as it is."""
    for name in {*os.listdir(target)} - {*os.listdir(source)}:
        path = target / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for entry in os.scandir(source):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            place.mkdir(exist_ok=True)
            _mirror(Path(entry.path), place)
            shutil.copystat(entry.path, place)
        elif entry.is_symlink():
            if not (place.is_symlink() and os.readlink(place) == os.readlink(entry.path)):
                place.unlink(missing_ok=True)
                os.symlink(os.readlink(entry.path), place)
        else:
            old, new = place.stat() if place.exists() else None, entry.stat()
            if old is None or (old.st_mtime_ns, old.st_size, old.st_mode) != (
                new.st_mtime_ns,
                new.st_size,
                new.st_mode,
            ):
                place.unlink(missing_ok=True)
                shutil.copy2(entry.path, place)


@dataclass
class House:
    """A solver and what it stands on."""

    solver: BuildSolver
    store: image_store.Store
    runtime: ShimRuntime
    root: Path


@asynccontextmanager
async def build_house(root: Path, *, driver: str = "overlayfs") -> AsyncGenerator[House]:
    """Everything of a daemon that builds need, on the directory ``root``."""
    config = Config(
        data_root=root / "data",
        exec_root=root / "exec",
        storage_driver=driver,
        lading=LadingSettings(),
    )
    for directory in (config.data_root, config.exec_root):
        directory.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        store = await image_store.open_store(stack, config, EventBus(), lambda: ())
        runtime = await stack.enter_async_context(
            ShimRuntime(
                config.exec_root / "tasks",
                config.data_root / "tasks",
                namespace="lading-test",
                ttrpc_address=str(config.exec_root / "e.sock"),
                publish_binary="/bin/false",
                runtimes={},
            )
        )
        await runtime.load()
        parent = f"/lading-test-{os.urandom(4).hex()}"
        stack.callback(remove_cgroups, parent)
        namespace = Namespace(config.containerd_namespace)
        solver = await stack.enter_async_context(
            BuildSolver(
                Environment(
                    content=store.content,
                    images=store.records,
                    leases=store.leases,
                    cache=store.database.build_cache(namespace),
                    snapshotter=store.snapshotter,
                    documents=store.transfer.documents,
                    puller=store.transfer.puller,
                    registries=store.registries,
                    runtime=runtime,
                    runtime_name="io.containerd.runc.v2",
                    state=config.exec_root / "build",
                    cgroup_v2=False,
                    cgroup_parent=parent,
                )
            )
        )
        yield House(solver, store, runtime, root)


def local(name: str, session: str = "client") -> make.Edge:
    """Files of the client."""
    op = ops.SourceOp(identifier=f"local://{name}", attrs={"local.session": session})
    return make.source(op, make.Style(metadata=named(f"load {name}")))


def named(name: str) -> Any:
    """A display name."""
    from lading.formats.llb.metadata import CUSTOM_NAME, Metadata

    return Metadata(description={CUSTOM_NAME: name})


def image(reference: str) -> make.Edge:
    """A base image."""
    return make.source(
        ops.SourceOp(identifier=f"docker-image://{reference}"),
        make.Style(metadata=named(f"from {reference}")),
    )


def copy(base: make.Edge | None, source: make.Edge, src: str, dest: str, **options: Any) -> make.Edge:
    """COPY."""
    defaults: dict[str, Any] = {
        "follow_symlink": True,
        "dir_copy_contents": True,
        "create_dest_path": True,
        "allow_wildcard": True,
        "allow_empty_wildcard": True,
    }
    action = ops.Copy(src=src, dest=dest, **(defaults | options))
    return make.change(base, [(action, source)], make.Style(metadata=named(f"copy {src} {dest}")))


def run(
    base: make.Edge,
    command: str,
    *,
    mounts: Sequence[make.MountWish] = (),
    extra: Sequence[ops.Mount] = (),
    network: ops.NetMode = ops.NetMode.NONE,
    user: str = "",
    cwd: str = "/",
    **more: Any,
) -> make.Edge:
    """RUN; what it leaves at ``/``."""
    op = ops.ExecOp(
        meta=ops.Meta(
            args=("/bin/sh", "-c", command),
            env=("PATH=/bin",),
            cwd=cwd,
            user=user,
            remove_mount_stubs_recursive=True,
        ),
        mounts=tuple(extra),
        network=network,
        **more,
    )
    root = make.MountWish(mount=ops.Mount(dest="/"), source=base, keep=True)
    _, outputs = make.execute(op, [root, *mounts], make.Style(metadata=named(f"run {command}")))
    return outputs["/"]


def definition(edge: make.Edge) -> Definition:
    """A definition of what is wanted."""
    return make.definition(edge)


def publish(registry: FakeRegistry, path: str, layers: Sequence[Any], *, architecture: str = GOARCH) -> str:
    """An image in a registry; its name."""
    diff_ids: list[str] = []
    descriptors: list[dict[str, Any]] = []
    for files in layers:
        tar = layer_tar(files)
        diff_ids.append(Digest.of(tar))
        blob = registry.add_blob(path, compressed(tar, "gzip"))
        kind = "application/vnd.oci.image.layer.v1.tar+gzip"
        descriptors.append({"mediaType": kind, "digest": blob.digest, "size": blob.size})
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    blob = registry.add_blob(path, json.dumps(config).encode())
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": blob.digest,
            "size": blob.size,
        },
        "layers": descriptors,
    }
    registry.add_manifest(path, json.dumps(manifest).encode(), kind, tag="latest")
    return f"{registry.host}/{path}:latest"
