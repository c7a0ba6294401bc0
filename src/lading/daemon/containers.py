"""Containers, put together: shims, networks, volumes, and what the configuration says about them.

`daemon.container_rooms` has it loaded when it is needed.
"""

import hashlib
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from lading.api.engine import containers as container_routes
from lading.api.engine import exec as exec_routes
from lading.api.engine import files as file_routes
from lading.api.engine import networks as network_routes
from lading.api.engine import volumes as volume_routes
from lading.api.engine.routing import Router
from lading.containers import storage
from lading.containers.environment import Environment, Resolving, StoredImages
from lading.containers.remapping import Remapping
from lading.containers.service import ContainerService
from lading.containers.service import open_service as open_containers
from lading.containers.spec import CGROUP_PARENT
from lading.core.addresses import DEFAULT_POOLS
from lading.core.metadata import Namespace
from lading.core.networks import Networks
from lading.core.snapshots import Capability, Snapshotter
from lading.daemon import host, rootless, stores
from lading.daemon.config import Config
from lading.daemon.container_rooms import Rooms
from lading.daemon.image_store import Store
from lading.daemon.userns import open_remapping
from lading.errors import FailedPreconditionError
from lading.kit import aio
from lading.network.networks import Settings as NetworkSettings
from lading.network.networks import open_networks
from lading.runtime.config import RUNC_V2, RuntimeConfig
from lading.runtime.service import ShimRuntime
from lading.snapshots import room
from lading.volumes.local import open_volumes


@asynccontextmanager
async def open_rooms(config: Config, store: Store) -> AsyncGenerator[Rooms]:
    """Everything that containers need, with those of earlier daemons taken up; closed in reverse on leaving.

    Raises:
        InvalidArgumentError, FailedPreconditionError: This machine cannot do what the configuration says.

    """
    async with AsyncExitStack() as stack:
        remapping = stack.enter_context(open_remapping(config.userns_remap, config.data_root))
        runtime = await open_runtime(stack, config)
        networks = await open_network_service(stack, config, store)
        service = await open_container_service(stack, config, store, runtime, networks, remapping)
        yield Rooms(
            runtime=runtime,
            networks=networks,
            remapping=remapping,
            service=service,
            router=make_router(service),
        )


def make_router(service: ContainerService) -> Router:
    """The routes of `container_rooms.HEADS`."""
    router = Router()
    container_routes.add_routes(router, service)
    exec_routes.add_routes(router, service)
    file_routes.add_routes(router, service)
    network_routes.add_routes(router, service)
    volume_routes.add_routes(router, service.volumes)
    return router


async def open_runtime(stack: AsyncExitStack, config: Config) -> ShimRuntime:
    """Shims, for containers and for the processes of builds."""
    available = host.runtimes(config)
    return await stack.enter_async_context(
        ShimRuntime(
            config.exec_root / "tasks",
            config.data_root / "tasks",
            namespace=config.containerd_namespace,
            ttrpc_address=str(config.exec_root / "shims.ttrpc"),
            publish_binary=str(await aio.run(aio.DISK, host.publish_binary, config.data_root)),
            runtimes={name: runtime_config(each) for name, each in available.items()},
            debug=config.debug,
        )
    )


async def open_network_service(stack: AsyncExitStack, config: Config, store: Store) -> Networks:
    """Networks, for containers and for the processes of builds."""
    return await stack.enter_async_context(
        open_networks(
            store.database.networks(Namespace(config.containerd_namespace)),
            config.exec_root / "network",
            network_settings(config),
        )
    )


async def open_container_service(
    stack: AsyncExitStack,
    config: Config,
    store: Store,
    runtime: ShimRuntime,
    networks: Networks,
    remapping: Remapping | None = None,
) -> ContainerService:
    """Containers in shims, with those of earlier daemons taken up."""
    available = host.runtimes(config)
    default = host.default_runtime(config)

    volumes = await stack.enter_async_context(
        open_volumes(
            store.database.volumes(Namespace(config.containerd_namespace)),
            # Not below "volumes": a dockerd that opens the same data-root takes what is there for volumes of its own.
            config.data_root / "lading" / "volumes" / config.containerd_namespace,
            remapping.root if remapping else (0, 0),
        )
    )
    environment = Environment(
        store=store.database.containers(store.namespace),
        images=StoredImages(
            store.content,
            find=store.images.find_one,
            unpack=store.transfer.ensure_unpacked,
            commit=store.exchange.commit,
        ),
        snapshotter=store.snapshotter,
        differ=store.snapshotter,
        leases=store.leases,
        runtime=runtime,
        bus=store.bus,
        networks=networks,
        volumes=volumes,
        resolving=resolving(config),
        remapping=remapping,
        # A sweep deletes what has no record, so each store has directories of its own.
        root=config.data_root / stores.containers_directory(store.selection.kind),
        state=config.exec_root / stores.containers_directory(store.selection.kind),
        runtimes={"": default} | {name: name for name in available},
        cgroup_v2=host.cgroup_version() == "2",
        cgroup_parent="" if config.rootless else CGROUP_PARENT,
        init_path=host.init_program(),
        init=config.init,
        log_driver=config.log_driver,
        log_options=dict(config.log_opts),
        trees=store.classic.trees_of if store.classic else None,
        storage_limit=storage_limit(config, store.snapshotter),
    )
    return await stack.enter_async_context(open_containers(environment))


def storage_limit(config: Config, snapshotter: Snapshotter) -> int:
    """What writable layers may hold by default. Raises `FailedPreconditionError` if the snapshotter cannot see to it."""
    limit = storage.default_limit(config.storage_opts)
    if limit and Capability.LIMITS not in snapshotter.capabilities:
        raise FailedPreconditionError(
            f"storage-opts: {snapshotter.name} cannot limit the size of a writable layer",
            hint="use erofs or overlayfs, in the containerd image store of a daemon that runs as root, or leave the option out",
        )
    if limit:
        room.check(limit)
    return limit


def network_settings(config: Config) -> NetworkSettings:
    """What daemon.json says about networks. Two daemons on one machine need two default bridges, so the name is ours by
    default, and that of a second data-root its own.
    """
    interface = config.bridge or (
        "lading0" if config.data_root == Config().data_root else f"lading-{_short(config.data_root)}"
    )
    return NetworkSettings(
        bridge="" if config.bridge == "none" else interface,
        bip=config.bip,
        mtu=config.mtu,
        pools=config.default_address_pools or DEFAULT_POOLS,
        host_ip=config.ip,
        program=config.lading.netavark,
        resolver=config.lading.aardvark_dns,
        rootlesskit=rootless.api_socket() if config.rootless else "",
    )


def _short(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]


def resolving(config: Config) -> Resolving:
    """What daemon.json says about looking up names."""
    return Resolving(
        servers=config.dns,
        search=config.dns_search,
        options=config.dns_opts,
        host_gateway=next(iter(config.host_gateway_ips), ""),
    )


def runtime_config(entry: Mapping[str, Any]) -> RuntimeConfig:
    """A runtime of daemon.json: a ``path`` to something like runc, or a ``runtimeType`` with ``options``."""
    kind = str(entry.get("runtimeType") or RUNC_V2)
    options: dict[str, Any] = {"BinaryName": str(entry["path"])} if entry.get("path") else {}
    return RuntimeConfig(runtime=kind, options=options | dict(entry.get("options") or {}))
