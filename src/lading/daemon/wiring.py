"""The wiring: the one place that names adapters and puts the house together.

`open_engine` makes what the daemon serves, `open_store` the part of it that the library shares. Read top down: every object is
built once, from what stands above it. Nothing is registered on import and nothing is looked up by name except the
snapshotter, whose table stands here.
"""

import os
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import structlog
from anyio.abc import TaskGroup

from lading.api.engine import absent, system
from lading.api.engine import events as event_routes
from lading.api.engine.routing import Router
from lading.core.events import Bus
from lading.core.remotes import Registries
from lading.daemon import host
from lading.daemon.config import Config
from lading.daemon.events import EventBus
from lading.remotes.config import Config as RemotesConfig
from lading.remotes.config import Limits
from lading.remotes.registries import HttpRegistries

_log: Final = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Engine:
    """What the daemon serves."""

    router: Router
    bus: Bus
    config: Config
    sources: system.Sources

    def start(self, tasks: TaskGroup) -> None:
        """Begin background work, once clients are served."""
        del tasks

    def reload(self, config: Config) -> None:
        """Take over reloadable options."""
        self.config = config
        self.sources.host = replace(
            self.sources.host,
            labels=config.labels,
            debug=config.debug,
            insecure_registries=config.insecure_registries,
            registry_mirrors=config.registry_mirrors,
        )
        self.bus.publish("daemon", "reload", "", {})


@asynccontextmanager
async def open_engine(config: Config) -> AsyncGenerator[Engine]:
    """Everything, assembled; closed in reverse on leaving."""
    bus = EventBus()
    registries = make_registries(config)
    try:
        sources = system.Sources(
            host=host.facts(config, id=str(uuid.uuid4()), driver="overlayfs"),
            listeners=lambda: bus.subscribers,
            open_files=lambda: len(os.listdir("/proc/self/fd")),
            registries=registries,
        )
        router = Router()
        system.add_routes(router, sources)
        event_routes.add_routes(router, bus)
        absent.add_networks(router)
        absent.add_volumes(router)
        absent.add_swarm(router)
        absent.add_plugins(router)
        absent.add_builder(router)
        yield Engine(router=router, bus=bus, config=config, sources=sources)
    finally:
        await registries.close()


def make_registries(config: Config) -> Registries:
    """The registry client, told what daemon.json says."""
    return HttpRegistries(
        RemotesConfig(
            mirrors=config.registry_mirrors,
            insecure=config.insecure_registries,
            user_agent=f"lading/{host.version()}",
            limits=Limits(attempts=config.max_download_attempts),
        )
    )


def host_names(config: Config) -> list[str]:
    """Names by which TCP clients may call this daemon (reliability.md A5)."""
    return [
        each.removeprefix("tcp://").rpartition(":")[0] for each in config.hosts if each.startswith("tcp://")
    ]
