"""Making containers: a request is judged, merged with its image, and becomes a record with a snapshot and volumes."""

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import anyio
import msgspec

from lading.containers import (
    health,
    imagemounts,
    links,
    model,
    naming,
    netmodes,
    remapping,
    request,
    signals,
    spec,
    storage,
    users,
    volumemounts,
    wasm,
)
from lading.containers.binds import Bind
from lading.containers.directories import Directories
from lading.containers.environment import ContainerImage, Environment
from lading.containers.model import Container, Document
from lading.containers.networking import Networking
from lading.containers.request import CreateRequest, LogConfig
from lading.containers.volumeholding import Making, VolumeHolding
from lading.containers.volumemounts import VolumeMount
from lading.core.containers import ContainerRecord
from lading.core.mounts import Mount
from lading.core.snapshots import SnapshotKey
from lading.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from lading.kit import aio
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new container's ID, and what the user should know."""

    id: str
    warnings: Sequence[str]


class Creator:
    """Makes containers. ``add`` is told of each as soon as it can be found; ``find`` gives others by name or ID."""

    def __init__(
        self,
        environment: Environment,
        directories: Directories,
        networking: Networking,
        holding: VolumeHolding,
        names: naming.Names,
        find: Callable[[str], Container],
        add: Callable[[Container], None],
    ) -> None:
        self._env = environment
        self._directories = directories
        self._networking = networking
        self._holding = holding
        self._names = names
        self._find = find
        self._add = add

    async def create(
        self, body: Mapping[str, Any], *, name: str = "", platform: Platform | None = None
    ) -> Created:
        """Create a container from Docker's create body.

        Raises:
            NotFoundError: No such image.
            AlreadyExistsError: The name is taken.
            InvalidArgumentError, UnsupportedError: A field is wrong or not offered; the message names it.

        """
        asked = request.parse(_with_defaults(body, self._env))
        wishes = self._networking.wishes(asked.config, asked.host, asked.networking)
        runtime = asked.host.runtime
        if runtime not in self._env.runtimes and not runtime.startswith(("io.containerd.", "/")):
            raise InvalidArgumentError(f"unknown or invalid runtime name: {runtime}", subject=runtime)
        wasm.check(runtime, platform)
        id_ = naming.new_id()
        with self._names.reserved(name, id_) as chosen:
            image = await self._env.images.open(asked.config.image, platform)
            wasm.check(runtime, image.manifest.platform or image.config.platform)
            document = _document(asked, image, id_)
            document.networks = wishes
            volumes = volumemounts.plan(asked.config, asked.host, image.config.run.volumes, self._mounts_of)
            document.borrowed = list(volumes.binds)
            record = ContainerRecord(
                id=id_,
                name=chosen,
                snapshotter=self._env.snapshotter.name,
                snapshot_key=id_,
                image=str(image.manifest.digest),
                target=str(image.target.digest),
                document={},
            )
            container = model.make(record, document)
            links.check(container, self._find)
            await self._dry_run(container)
            document.images = await imagemounts.hold(self._env, id_, container.images)
            try:
                async with self._holding.making(volumes.asked) as making:
                    document.volumes = [*volumes.borrowed, *making.mounts]
                    await self._store(container, image, making)
                    self._add(container)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await imagemounts.release(self._env, id_, container.images)
                raise
        self._env.bus.publish("container", "create", container.id, container.attributes())
        warnings = [*asked.warnings, *_network_warnings(asked)]
        if platform is None:
            warnings += _platform_warnings(image)
        return Created(id=id_, warnings=warnings)

    def _mounts_of(self, name: str) -> tuple[Sequence[VolumeMount], Sequence[Bind]]:
        """For ``--volumes-from``. Not found would mean the image, which clients would then pull."""
        try:
            other = self._find(name)
        except NotFoundError as exc:
            raise InvalidArgumentError(exc.message, subject=name) from exc
        return other.document.volumes, other.binds

    async def _dry_run(self, container: Container) -> None:
        """Refuse now what would be refused at every start: build the spec with a stand-in for the user."""
        user = users.User(uid=0, gid=0, groups=(0,), home="/")
        plan = spec.Plan(
            id=container.id,
            config=container.config,
            host=container.host,
            args=[container.document.path],
            env=(),
            cwd="/",
            user=user,
            hostname=container.document.hostname,
            cgroup_parent=self._env.cgroup_parent,
        )
        if self._env.remapping is not None:
            remapping.check(container.host)
        await aio.run(aio.DISK, spec.build, plan)
        storage.limit(container.host.storage_opt)
        if container.host.init and not self._env.init_path:
            raise UnsupportedError(
                "HostConfig.Init: there is no init program on this machine",
                hint="install tini, or leave --init out",
            )
        signals.parse_stop(container.document.stop_signal)

    async def _store(self, container: Container, image: ContainerImage, making: Making) -> None:
        """Record, volumes and snapshot; nothing is left behind on failure.

        The record comes first: what it names is kept by the collector from then on. If we are killed before there is a snapshot,
        the next start finds a container that nobody was told of, and drops it with the volumes that only it has. The row of the
        snapshot, or of a volume, is in the same log and durable, so that the record need not wait for the disk itself.
        """
        await self._env.store.create(container.snapshot(), durable=False)
        try:
            await making.make()
            parent = await self._env.images.unpack(image.manifest, image=image)
            mounts = await self._env.snapshotter.prepare(
                SnapshotKey(container.record.snapshot_key),
                parent,
                limit=storage.limit(container.host.storage_opt, default=self._env.storage_limit),
            )
            await self._fill_volumes(container, mounts)
        except BaseException:
            with anyio.CancelScope(shield=True):
                with contextlib.suppress(NotFoundError):
                    await self._env.snapshotter.remove(container.record.snapshot_key)
                await self._env.store.delete(container.id)
            raise

    async def _fill_volumes(self, container: Container, mounts: Sequence[Mount]) -> None:
        volumes = container.document.volumes
        if not any(each.copy for each in volumes):
            return
        scratch = self._directories.durable(container) / "rootfs"
        await aio.run(aio.DISK, scratch.mkdir, mode=0o700, parents=True, exist_ok=True)
        try:
            await self._holding.fill(volumes, mounts, scratch, self._env.remapping_of(container.host))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await aio.run(
                    aio.DISK, shutil.rmtree, self._directories.durable(container), ignore_errors=True
                )
            raise


def _document(asked: CreateRequest, image: ContainerImage, id_: str) -> Document:
    """Merge what was asked for with the image's defaults, as Docker does."""
    config, run = asked.config, image.config.run
    entrypoint, cmd = spec.arguments(config, run.entrypoint, run.cmd)
    env = spec.merge_env(run.env, config.env)
    hostname = config.hostname or id_[:12]
    labels = {**(run.labels or {}), **(config.labels or {})}
    words = [*entrypoint, *cmd]
    stop_signal = config.stop_signal or run.stop_signal or "SIGTERM"
    merged = {
        **asked.raw_config,
        "Hostname": hostname,
        "Env": env,
        "Cmd": cmd or None,
        "Entrypoint": entrypoint or None,
        "Labels": labels,
        "WorkingDir": config.working_dir or run.working_dir,
        "User": config.user or run.user,
        "Volumes": {**(run.volumes or {}), **(config.volumes or {})} or None,
    }
    merged.pop("ExposedPorts", None)
    if ports := {**(run.exposed_ports or {}), **(config.exposed_ports or {})}:
        merged["ExposedPorts"] = ports
    image_health = cast("dict[str, Any] | None", msgspec.to_builtins(run.healthcheck))
    if check := health.merged(asked.raw_config.get("Healthcheck"), image_health):
        merged["Healthcheck"] = check
    if run.shell and not config.shell:
        merged["Shell"] = list(run.shell)
    if config.stop_signal or run.stop_signal:
        merged["StopSignal"] = stop_signal
    platform = image.manifest.platform or image.config.platform
    return Document(
        created=time.time_ns(),
        path=words[0],
        args=words[1:],
        env=env,
        working_dir=config.working_dir or run.working_dir,
        user=config.user or run.user,
        hostname=hostname,
        stop_signal=stop_signal,
        config=merged,
        host_config=_with_swap(asked),
        manifest=msgspec.structs.replace(image.manifest, platform=platform),
        platform=platform.os or "linux",
    )


def _platform_warnings(image: ContainerImage) -> "list[str]":
    """In Docker's words, of an image that was not chosen by its platform and runs elsewhere."""
    offered = image.manifest.platform or image.config.platform
    host = platforms.host()
    if platforms.rank(host, offered) is not None:
        return []
    shown, here = platforms.formatted(offered), platforms.formatted(host)
    return [
        (
            f"The requested image's platform ({shown}) does not match the detected host platform ({here}) "
            "and no specific platform was requested"
        )
    ]


def _network_warnings(asked: CreateRequest) -> "list[str]":
    published = asked.host.port_bindings or asked.host.publish_all_ports
    return [netmodes.PORTS_DISCARDED] if published and asked.host.network_mode == "host" else []


def _with_defaults(body: Mapping[str, Any], environment: Environment) -> dict[str, Any]:
    """What the daemon's configuration says where the request says nothing."""
    try:
        host = msgspec.convert(body.get("HostConfig") or {}, dict[str, Any])
        log = msgspec.convert(host.get("LogConfig") or {}, LogConfig)
    except msgspec.ValidationError:
        return dict(body)  # whoever judges the request says what is wrong
    if (log.type or environment.log_driver) == environment.log_driver:
        options = {**environment.log_options, **(log.config or {})}
        host["LogConfig"] = {"Type": environment.log_driver, "Config": options}
    if environment.init and host.get("Init") is None:
        host["Init"] = True
    return {**body, "HostConfig": host}


def _with_swap(asked: CreateRequest) -> dict[str, Any]:
    """A memory limit allows as much swap again unless told otherwise; stored, so that later updates are judged by it."""
    memory = asked.host.memory
    if not memory or asked.host.memory_swap:
        return asked.raw_host
    return {**asked.raw_host, "MemorySwap": memory * 2}
