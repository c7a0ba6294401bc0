"""``lading daemon``: from a command line to a serving process and back to nothing."""

import faulthandler
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Final, cast

import anyio
import structlog

from lading.api.engine.server import EngineServer
from lading.daemon import host, launch, lifecycle, logging, places, rootless
from lading.daemon.config import Command, Config, load, reloaded
from lading.errors import LadingError

if TYPE_CHECKING:
    from lading.daemon.selection import StoreKind
    from lading.daemon.wiring import Engine

_log: Final = structlog.get_logger(__name__)
_USAGE_ERROR: Final = 125
_BAD_FLAG: Final = ("unknown flag", "unknown shorthand flag")
"""What a usage error begins with."""
_LONGEST_SHUTDOWN: Final = 10


def main(arguments: Sequence[str]) -> int:
    """Run the daemon until a signal ends it; its exit status."""
    try:
        command = load(arguments)
    except LadingError as exc:
        sys.stderr.write(f"lading daemon: {exc}\n")
        return _USAGE_ERROR if exc.message.startswith(_BAD_FLAG) else 1
    match command.action:
        case "help":
            from lading.daemon.options import usage  # noqa: PLC0415 - only for --help

            sys.stdout.write(usage() + "\n")
            return 0
        case "version":
            sys.stdout.write(f"Lading version {host.version()}\n")
            return 0
        case "validate":
            sys.stdout.write("configuration OK\n")
            return 0
        case "run":
            return _run(command, arguments)


def _run(command: Command, arguments: Sequence[str]) -> int:
    config = command.config
    logging.configure(config.level, config.log_format)
    faulthandler.enable(file=sys.stderr)
    faulthandler.register(signal.SIGQUIT, file=sys.stderr, all_threads=True)
    for warning in config.warnings:
        _log.warning("option_ignored", detail=warning)
    try:
        inside = places.is_inside()
        if config.rootless and not inside:
            rootless.launch(config, arguments)
        with ExitStack() as stack:
            lifecycle.prepare_process(config)
            if inside:
                rootless.settle()
            lifecycle.prepare_directories(config)
            stack.enter_context(lifecycle.pidfile(config.pidfile, rootless.process() if inside else 0))
            anyio.run(_serve, config, arguments)
    except (LadingError, ExceptionGroup) as exc:
        error = _cause(exc)
        if error is None:
            raise
        _log.error("daemon_failed", error=str(error), code=error.code)
        sys.stderr.write(f"lading daemon: {error}\n")
        return 1
    _log.info("daemon_stopped")
    return 0


def _cause(error: BaseException) -> LadingError | None:
    """The error behind what task groups made of it; ``None`` if it is a bug."""
    while isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        if len(inner) != 1:
            return None
        error = inner[0]
    return error if isinstance(error, LadingError) else None


async def _serve(config: Config, arguments: Sequence[str]) -> None:
    with launch.light_imports("rooms"):
        from lading.daemon import image_store, wiring  # noqa: PLC0415 - loads every room; a bad option is told without it

    server: EngineServer | None = None
    earlier: StoreKind | None = None
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with AsyncExitStack() as sockets:
            while True:
                async with AsyncExitStack() as life:
                    try:
                        engine = await life.enter_async_context(wiring.open_engine(config))
                    except LadingError as exc:
                        if earlier is None:
                            raise
                        _log.error("switch_failed", error=str(exc), back_to=earlier.value)
                        await life.aclose()
                        await image_store.choose(config, earlier)
                        earlier = None
                        continue
                    if server is None:
                        server = EngineServer(engine.router, allowed_hosts=wiring.host_names(config))
                        listeners = sockets.enter_context(lifecycle.listening(config))
                        await sockets.enter_async_context(server.serving(listeners))
                    server.resume(engine.router)
                    config = await _live(engine, config, arguments, signals)
                    if not engine.restart.is_set():
                        await sockets.aclose()
                        return
                    await server.pause()
                    earlier = engine.store.selection.kind


async def _live(
    engine: "Engine", config: Config, arguments: Sequence[str], signals: AsyncIterator[signal.Signals]
) -> Config:
    """Serve until a signal ends it, or until the engine is to be opened again; the configuration by then."""
    async with anyio.create_task_group() as tasks:
        launch.settle()
        engine.start(tasks)
        lifecycle.notify(f"READY=1\nMAINPID={rootless.process()}")
        _log.info("daemon_ready", hosts=list(config.hosts), data_root=str(config.data_root))

        async def restart_when_asked() -> None:
            await engine.restart.wait()
            lifecycle.notify("RELOADING=1")
            _log.info("engine_restarting")
            watching.cancel()

        with anyio.CancelScope() as watching:
            tasks.start_soon(restart_when_asked)
            async for received in signals:
                if received is not signal.SIGHUP:
                    _stopping(config)
                    if config.rootless:  # they would be killed with the namespaces
                        with anyio.move_on_after(config.shutdown_timeout):
                            await engine.shut_down()
                    break
                config = _reload(config, arguments)
                engine.reload(config)
        tasks.cancel_scope.cancel()
    return config


def _reload(config: Config, arguments: Sequence[str]) -> Config:
    lifecycle.notify("RELOADING=1")
    try:
        config = reloaded(config, load(arguments).config)
        logging.configure(config.level, config.log_format)
        _log.info("daemon_reloaded")
    except LadingError as exc:
        _log.error("reload_refused", error=str(exc))
    lifecycle.notify("READY=1")
    return config


def _stopping(config: Config) -> None:
    """From here on the kernel ends the process: on a second signal at once, and anyway when time is up."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    longest = config.shutdown_timeout if config.rootless else 0
    signal.alarm(longest + max(1, min(config.shutdown_timeout, _LONGEST_SHUTDOWN)))
    lifecycle.notify("STOPPING=1")
    _log.info("daemon_stopping")
