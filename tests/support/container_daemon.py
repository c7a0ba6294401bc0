"""A daemon of containers alone: real shims, the real API, one image. Run as a program by the end-to-end tests."""

import socket
import sys
from pathlib import Path

import anyio
import structlog

from lading.api.engine import absent, containers, events, system
from lading.api.engine import exec as exec_routes
from lading.api.engine.routing import Router
from lading.api.engine.server import EngineServer, Listener
from lading.containers.service import open_service
from lading.daemon import host
from lading.daemon.config import Config
from lading.daemon.events import EventBus
from lading.runtime.service import ShimRuntime
from support.containers import environment


async def main(directory: Path) -> None:
    bus = EventBus()
    runtime = ShimRuntime(
        directory / "state/shims",
        directory / "root/shims",
        namespace="lading-e2e",
        ttrpc_address=str(directory / "e.sock"),
        publish_binary="/bin/false",
        runtimes={},
    )
    path = directory / "docker.sock"
    path.unlink(missing_ok=True)
    async with runtime, open_service(environment(directory, runtime, bus=bus)) as service:
        router = Router()
        containers.add_routes(router, service)
        exec_routes.add_routes(router, service)
        events.add_routes(router, bus)
        system.add_routes(router, system.Sources(host=host.facts(Config(), id="test", driver="tree")))
        absent.add_networks(router)
        absent.add_volumes(router)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen()
        async with EngineServer(router).serving([Listener(socket=listening)]):
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await anyio.sleep_forever()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    anyio.run(main, Path(sys.argv[1]))
